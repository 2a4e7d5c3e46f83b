"""Values from JSON that others may have edited: each field of its own kind, or an exception that the caller words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from math import isfinite
from typing import Any, TypeVar, get_origin, get_type_hints

T = TypeVar("T")
# what reading the fields of something else raises
UNFIT = (TypeError, ValueError, AttributeError, LookupError, OverflowError)
LARGEST = float(1 << 63)  # of a number; NaN and infinity are beyond


def record_of(cls: type[T], found: object) -> T:
    """cls(**found); ValueError for a field that is missing, unknown or of another kind than its annotation."""
    if not isinstance(found, dict):
        raise ValueError(f"a {cls.__name__} should be an object and is {shown(found)}")
    check_names(cls, found)
    for name, hint in get_type_hints(cls).items():
        kind = get_origin(hint) or hint
        if name in found and not is_kind(found[name], kind):
            article = "an" if kind is int else "a"
            raise ValueError(f"{name} should be {article} {kind.__name__} and is {shown(found[name])}")
    return cls(**found)


def check_names(cls: Any, found: dict[str, object]) -> None:
    known = {one.name: one.default is MISSING and one.default_factory is MISSING for one in fields(cls)}
    if missing := [name for name, needed in known.items() if needed and name not in found]:
        raise ValueError(f"{missing[0]} is missing")
    if unknown := [name for name in found if name not in known]:
        raise ValueError(f"{unknown[0][:40]} is unknown")


def is_kind(value: object, kind: Any) -> bool:
    if kind not in (int, float):
        return isinstance(value, kind)
    numbers = (int, float) if kind is float else int
    return isinstance(value, numbers) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def shown(value: object) -> str:
    """A value in a few characters; a long number is not spelled out, which takes its time."""
    return repr(value)[:40] if isinstance(value, str | float | bool | None) else type(value).__name__


##### Single fields; TypeError for one of another kind


def worded(value: Any) -> Any:
    """Numbers that JSON does not have as words, tuples as lists."""
    if isinstance(value, Mapping):
        return {key: worded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [worded(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def maybe(of: Callable[[Any], T], found: object) -> T | None:
    return None if found is None else of(found)


def each(of: Callable[[Any], T], found: object) -> tuple[T, ...]:
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
    """A count that there may be, which a float can hold too."""
    if not isinstance(found, int) or not is_kind(found, int):
        raise TypeError
    return found


def number(found: object) -> float:
    """A number, or the words for those that JSON does not have."""
    if isinstance(found, bool) or not isinstance(found, int | float) and found not in ("inf", "-inf", "nan"):
        raise TypeError
    return float(found)  # type: ignore[arg-type]
