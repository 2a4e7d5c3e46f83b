"""A plan: which format each layer gets, what that takes and costs, and why; a file that one can read and edit."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import Refused, first_line
from ..files.atomic import write_whole
from ..files.header import NotJson, as_object
from ..files.sidecars import json_text
from ..names import without_prefixes
from ..records import record_of
from ..text import text_table
from ..weights.formats import FORMATS
from .budget import size_text
from .candidates import KEEP, foreign
from .curve import Curve, Point

VERSION = 1
COLUMNS = ("layer", "format", "bytes", "error", "share", "why")


@dataclass(frozen=True)
class PlanRow:
    """One layer. error: what it adds to the image's, relative, root of its square; bytes: as saved."""

    layer: str
    format: str
    granularity: str
    bytes: int
    error: float
    why: str


@dataclass(frozen=True)
class Plan:
    """What becomes of each layer. source: the model's name; calibration: file that the errors are from, or "".

    error: predicted, relative; bytes: of the whole model; bits: a weight of the layers that are planned.
    """

    source: str
    budget: str
    calibration: str
    measure: str
    error: float
    bytes: int
    bits: float
    rows: tuple[PlanRow, ...]
    curve: Curve

    def row(self, name: str) -> PlanRow | None:
        """What was planned for a layer, whatever stands before its name."""
        return self.by_name.get(without_prefixes(name))

    @cached_property
    def by_name(self) -> Mapping[str, PlanRow]:
        return {without_prefixes(row.layer): row for row in self.rows}

    @property
    def formats(self) -> dict[str, int]:
        """Format -> layers."""
        return dict(Counter(row.format for row in self.rows).most_common())

    def to_json(self) -> dict[str, Any]:
        found = {"scaled_fp8_plan": VERSION, **asdict(self)}
        return found | {"rows": [asdict(row) for row in self.rows], "curve": self.curve.to_json()}

    def table(self) -> str:
        """Totals, the curve, then one line a layer."""
        total = sum(row.error**2 for row in self.rows) or 1.0
        lines = [
            [row.layer, row.format, str(row.bytes), f"{row.error:.5f}", f"{row.error**2 / total:.0%}", row.why]
            for row in self.rows
        ]
        return "\n".join((*self.totals(), "", self.curve.table(), "", text_table(COLUMNS, lines)))

    def totals(self) -> list[str]:
        chosen = ", ".join(f"{count} {name}" for name, count in self.formats.items())
        size = f"{self.bits:.2f} bits a weight, {size_text(self.bytes)} in all"
        first = f"budget {self.budget}: {size}, predicted error {self.error:.4f} ({self.measure})"
        strange = [f"only this pack loads {name}: ComfyUI alone does not" for name in foreign(self.formats)]
        return [first, f"layers: {chosen}", *strange]


##### Files


def write_plan(path: str | os.PathLike[str], plan: Plan) -> None:
    """As JSON, one line a layer; whole or not at all."""
    found = plan.to_json()
    rows, points = found.pop("rows"), found.pop("curve")
    parts = [json.dumps(found, indent=1)[:-2], f' "rows": {lines(rows)}', f' "curve": {lines(points)}\n}}\n']
    try:
        write_whole(Path(path), ",\n".join(parts).encode())
    except OSError as problem:
        raise Refused(f"{path}: the plan cannot be written: {first_line(problem)}.") from None


def lines(rows: list[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]"


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """A plan that was written, and perhaps edited since; Refused where it is none or says what cannot be."""
    name = Path(path).name
    try:
        found = as_object(json_text(Path(path)))
    except NotJson as problem:
        raise Refused(f"{name}: the plan {problem}; correct it, or plan anew.") from None
    if found.pop("scaled_fp8_plan", None) != VERSION:
        raise Refused(f"{name}: is no plan of this version; scaled-fp8 plan makes one.")
    try:
        rows = tuple(checked(record_of(PlanRow, row), name) for row in list_of(found, "rows"))
        points = tuple(record_of(Point, point) for point in list_of(found, "curve"))
        plan = record_of(Plan, found | {"rows": rows, "curve": Curve(points)})
    except ValueError as problem:
        raise Refused(f"{name}: the plan is damaged: {first_line(problem)}; plan anew.") from None
    if not rows:
        raise Refused(f"{name}: plans no layer, so that nothing would be converted; plan anew.")
    if len(plan.by_name) < len(rows):
        raise Refused(f"{name}: a layer is planned twice; leave one of its rows out.")
    return plan


def list_of(found: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(found.get(name), list):
        raise ValueError(f"{name} should be a list" if name in found else f"{name} is missing")
    return list(found[name])


def checked(row: PlanRow, name: str) -> PlanRow:
    """Refused where a row asks for what does not exist."""
    if row.format == KEEP:
        return row
    if row.format not in FORMATS:
        raise Refused(f"{name}: {row.layer} asks for {row.format!r}; choose {KEEP} or one of {', '.join(FORMATS)}.")
    try:
        FORMATS[row.format].granularity(row.granularity or None)
    except Refused as problem:
        raise Refused(f"{name}: {row.layer} asks for what there is not: {problem}") from None
    return row
