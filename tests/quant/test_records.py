"""Dataclasses from JSON: what is of its kind is taken as it is, everything else is a clause."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from scaled_fp8.quant.records import record_of


@dataclass(frozen=True)
class Known:
    name: str
    count: int
    share: float = 0.5
    parts: dict[str, list[int]] = field(default_factory=dict)


def test_each_field_of_its_kind_is_taken() -> None:
    assert record_of(Known, {"name": "a", "count": 3, "share": 1}) == Known("a", 3, 1)
    assert record_of(Known, {"name": "a", "count": 3, "parts": {"b": [1]}}).parts == {"b": [1]}


@pytest.mark.parametrize("changed", [
    {"name": None}, {"name": 7}, {"count": 1.0}, {"count": True}, {"count": 1 << 63}, {"share": "1"}, {"share": True},
    {"share": float("nan")}, {"share": float("inf")}, {"share": 10**400}, {"parts": []},
], ids=str)  # fmt: skip
def test_another_kind_is_a_clause(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(changed))} should be a"):
        record_of(Known, {"name": "a", "count": 3} | changed)


def test_fields_are_those_of_the_class() -> None:
    with pytest.raises(ValueError, match="^count is missing"):
        record_of(Known, {"name": "a"})
    with pytest.raises(ValueError, match="^colour is unknown"):
        record_of(Known, {"name": "a", "count": 1, "colour": "red"})
    with pytest.raises(ValueError, match="should be an object and is list"):
        record_of(Known, [])
