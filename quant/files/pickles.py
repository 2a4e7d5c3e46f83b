"""Checkpoints that torch pickled, read without running anything that is in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ..errors import Refused, first_line
from .memory import Loaded, loaded
from .reader import open_regular
from .stored import Contents

# top keys under which trainers put the state dict
WRAPPERS = ("module", "state_dict", "model")


def read_pickle(path: Path) -> Contents:
    """The tensors of a torch file, mapped; nothing but tensors and plain containers is unpickled."""
    state = load_pickle(path)
    tops = [key for key in WRAPPERS if isinstance(state.get(key), dict)]
    if len(tops) == 1:
        state = state[tops[0]]
    return Contents({key: mapped(key, value, path) for key, value in state.items()})


def load_pickle(path: Path) -> dict[str, Any]:
    open_regular(path).close()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise Refused(
            f"{path}: more than tensors is pickled in it, which is not read; save it as safetensors."
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as problem:
        raise Refused(f"{path}: cannot be read: {first_line(problem)}; save it as safetensors.") from None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise Refused(f"{path}: holds a {type(state).__name__}, not tensors by name; save it as safetensors.")
    return state


def mapped(name: str, value: object, path: Path) -> Loaded:
    found = loaded(name, value, path.name, own=False)
    # a view can claim any size; what is behind it is what the file holds
    if found.info.nbytes > found.value.untyped_storage().nbytes():
        raise Refused(f"{path}: {name!r} claims {found.info.nbytes} bytes, more than are stored; fetch it again.")
    return found
