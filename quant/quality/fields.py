"""Fields of JSON that may come from anyone: each is what it should be, or a TypeError."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, TypeVar

Row = TypeVar("Row")
# what reading the fields of something else raises
UNFIT = (TypeError, ValueError, AttributeError, LookupError, OverflowError)


def worded(value: Any) -> Any:
    """Numbers that JSON does not have as words, tuples as lists."""
    if isinstance(value, Mapping):
        return {key: worded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [worded(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def maybe(of: Callable[[Any], Row], found: object) -> Row | None:
    return None if found is None else of(found)


def each(of: Callable[[Any], Row], found: object) -> tuple[Row, ...]:
    if not isinstance(found, list):
        raise TypeError
    return tuple(map(of, found))


def texts(found: Mapping[str, Any]) -> dict[str, str]:
    return {text(key): text(value) for key, value in found.items()}


def text(found: object) -> str:
    if not isinstance(found, str):
        raise TypeError
    return found


def whole(found: object) -> int:
    if not isinstance(found, int) or isinstance(found, bool):
        raise TypeError
    return found


def number(found: object) -> float:
    """A number, or the words for those that JSON does not have."""
    if isinstance(found, bool) or not isinstance(found, int | float) and found not in ("inf", "-inf", "nan"):
        raise TypeError
    return float(found)  # type: ignore[arg-type]
