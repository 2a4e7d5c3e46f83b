"""What a conversion did, as a value: every layer's fate with its reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from ..text import few
from ..weights.job import gained

SHOWN = 3  # names after a reason


@dataclass(frozen=True)
class TensorResult:
    """One tensor or layer. before, after: dtype, or format and granularity; reason: "" for what was never a layer.

    gain: by how many dB a search for better scales lowered the weight's error, None without one.
    """

    name: str
    before: str
    after: str
    reason: str
    quantized: bool
    gain: float | None = None


@dataclass(frozen=True)
class Conversion:
    """source, verdict: what was read; files: what was written; parts: a line for each component; rows: all tensors.

    checked: tensors that were read back and compared.
    """

    source: str
    files: tuple[str, ...]
    verdict: str
    parts: tuple[str, ...]
    rows: tuple[TensorResult, ...]
    bytes_before: int
    bytes_after: int
    checked: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}

    def summary(self) -> str:
        """What became of the layers, in a few words."""
        counts = Counter(row.after for row in self.rows if row.quantized)
        counts.update(
            f"{row.before} -> {row.after}" for row in self.rows if not row.quantized and row.before != row.after
        )
        kept = sum(not row.quantized and row.before == row.after for row in self.rows)
        return ", ".join([*(f"{n} {what}" for what, n in counts.most_common()), f"{kept} tensors as they were"])

    def table(self) -> str:
        """Totals, then each reason with the layers that it holds for."""
        where = self.files[-1] if len(self.files) < 2 else f"{self.files[-1]} and {len(self.files) - 1} shards"
        sizes = f"{self.bytes_before / 1e6:.1f} MB -> {self.bytes_after / 1e6:.1f} MB in {self.seconds:.1f} s"
        lines = [self.verdict, *self.parts, *self.reasons(), *gained(row.gain for row in self.rows)]
        return "\n".join([*lines, f"{where}: {self.summary()}; {sizes}; {self.checked} read back and compared."])

    def reasons(self) -> list[str]:
        found: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            if row.reason:
                found.setdefault((row.after, row.reason), []).append(row.name.removesuffix(".weight"))
        return [f"{len(names)} {after}: {reason}: {few(names, SHOWN)}" for (after, reason), names in found.items()]
