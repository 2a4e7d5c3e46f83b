"""What was measured on one machine, as JSON under benchmarks/results."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds: the median, and the quartiles below and above it; runs: how many there were."""

    median: float
    low: float
    high: float
    runs: int


def spread(times: list[float]) -> Timing:
    low, middle, high = quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return Timing(middle, low, high, len(times))


@dataclass(frozen=True)
class Measurement:
    """One measured figure. case: what was computed; peer: by whom; times in seconds, by their median and quartiles.

    group: the cases whose figures the table takes together;
    db: signal to error against float32, higher is better; memory: bytes at most; note: of this pack, what ran and why.
    """

    case: str
    peer: str
    median: float
    low: float
    high: float
    runs: int
    group: str = ""
    db: float | None = None
    memory: int | None = None
    note: str = ""

    @property
    def ours(self) -> bool:
        return self.peer.startswith("Scaled FP8")


@dataclass(frozen=True)
class Part:
    """Rows of one kind, and the peers that have none with the reason. baseline: the peer that others are beside."""

    name: str
    title: str
    command: str
    baseline: str
    rows: tuple[Measurement, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    machine: dict[str, Any]
    parts: tuple[Part, ...]

    def save(self, path: Path) -> Path:
        """Whole or not at all: a run may be killed while it saves, and what it saved before must be there then."""
        return replaced(path, json.dumps(asdict(self), indent=1) + "\n")


def replaced(path: Path, text: str) -> Path:
    """The file with this text, by way of one beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def row(case: str, peer: str, timing: Timing, **more: Any) -> Measurement:
    return Measurement(case, peer, timing.median, timing.low, timing.high, timing.runs, **more)


def read(path: Path) -> Results:
    stored = json.loads(path.read_text())
    return Results(stored["machine"], tuple(read_part(part) for part in stored["parts"]))


def read_part(stored: dict) -> Part:
    rows = tuple(Measurement(**one) for one in stored.pop("rows"))
    return Part(**{**stored, "notes": tuple(stored["notes"])}, rows=rows)


def every() -> list[Results]:
    """Of all machines, by name."""
    return [read(path) for path in sorted(FOLDER.glob("*.json"))]
