"""Dataclasses from JSON that others may have edited: each field of its own kind, or a clause that says which is not."""

from __future__ import annotations

from typing import Any, TypeVar, get_origin, get_type_hints

T = TypeVar("T")
LARGEST = float(1 << 63)  # of a number; NaN and infinity are beyond


def record_of(cls: type[T], fields: object) -> T:
    """cls(**fields); ValueError for a field of another kind than its annotation, TypeError for one too many or few."""
    if not isinstance(fields, dict):
        raise ValueError(f"a {cls.__name__} should be an object and is {shown(fields)}")
    for name, hint in get_type_hints(cls).items():
        kind = get_origin(hint) or hint
        if name in fields and not is_kind(fields[name], kind):
            raise ValueError(f"{name} should be a {kind.__name__} and is {shown(fields[name])}")
    return cls(**fields)


def is_kind(value: object, kind: Any) -> bool:
    if kind not in (int, float):
        return isinstance(value, kind)
    numbers = (int, float) if kind is float else int
    return isinstance(value, numbers) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def shown(value: object) -> str:
    """A value in a few characters; a long number is not spelled out, which takes its time."""
    return repr(value)[:40] if isinstance(value, str | float | bool | None) else type(value).__name__
