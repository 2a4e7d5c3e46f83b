"""What commands print: results on stdout, one sentence on stderr, a bar for a person who looks on."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable
from contextlib import suppress
from math import isfinite
from typing import Any, TypeVar

from ..text import printable

DONE, FAILED, REFUSED = 0, 1, 2
DEBUG = "SCALED_FP8_DEBUG"
T = TypeVar("T")


def put(text: str) -> None:
    """Print, and go on in silence where nobody reads any more."""
    try:
        sys.stdout.write(printable(text) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def put_json(value: object) -> None:
    put(json.dumps(finite(value), indent=2))


def complain(sentence: str, code: int) -> int:
    sys.stderr.write(printable(" ".join(sentence.split())) + "\n")
    return code


def finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity: None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def bar(items: Iterable[T], count: int) -> Iterable[T]:
    """The items, with a progress bar if a person looks on."""
    from tqdm import tqdm

    shown: Iterable[T] = tqdm(items, total=count, unit="tensor", disable=None)
    return shown


def bytes_bar(total: int) -> Any:
    """A progress bar of bytes, if a person looks on."""
    from tqdm import tqdm

    return tqdm(total=total, unit="B", unit_scale=True, disable=None)


def unexpected(problem: Exception) -> str:
    if os.environ.get(DEBUG):
        traceback.print_exc()
    text = str(problem).strip().splitlines()
    return f"Unexpected {type(problem).__name__}: {text[0] if text else 'no message'} (set {DEBUG}=1 to see where)."


def prepare_streams() -> None:
    """Quiet libraries, names in any encoding, and an end that cleans up."""
    if not os.environ.get(DEBUG):
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with suppress(ValueError):  # outside of the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
