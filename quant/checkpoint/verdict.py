"""What was found in a checkpoint: each quantized layer's decision with its reason, as a value."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ..text import text_table

SCALED, PLAIN_CAST, REFUSED = "scaled", "plain cast", "refused"
COLUMNS = ("layer", "shape", "format", "granularity", "decision", "reason")
SHOWN = 6  # names in one sentence


@dataclass(frozen=True)
class LayerVerdict:
    """One quantized weight. shape: logical ``[out, in]``; decision: "scaled", "plain cast" or "refused"."""

    name: str
    shape: tuple[int, ...]
    format: str | None = None
    granularity: str | None = None
    scale_shape: tuple[int, ...] | None = None
    decision: str = REFUSED
    reason: str = ""

    @property
    def row(self) -> tuple[str, ...]:
        shape = " x ".join(map(str, self.shape))
        return (self.name, shape, self.format or "-", self.granularity or "-", self.decision, self.reason)


@dataclass(frozen=True)
class Verdict:
    """accepted: every weight is scaled or a proven plain cast; dialect: names of all that were met; reasons:
    why it is refused, one sentence each, then what else is to be known; totals: counts by decision, and sizes."""

    source: str
    accepted: bool
    dialect: str
    reasons: tuple[str, ...] = ()
    layers: tuple[LayerVerdict, ...] = ()
    totals: dict[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        """The refusal, or one line of summary."""
        if not self.accepted:
            return f"{self.source}: {self.reasons[0]}"
        counts = Counter(layer.decision for layer in self.layers)
        parts = ", ".join(f"{n} {decision}" for decision, n in counts.items()) or "no quantized weights"
        return f"{self.source}: {self.dialect}: {parts}."

    def told(self) -> str:
        """The sentence, and what is accepted with a word about it."""
        return "\n".join((self.sentence(), *self.reasons)) if self.accepted else self.sentence()

    def table(self) -> str:
        """One line a layer under a line of columns, and the summary below."""
        table = text_table(COLUMNS, [layer.row for layer in self.layers])
        return "\n".join([table, "", self.sentence(), *self.reasons[0 if self.accepted else 1 :]])

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        layers = [asdict(layer) for layer in self.layers]
        return {
            "accepted": self.accepted, "dialect": self.dialect, "reasons": list(self.reasons),
            "layers": [{k: list(v) if isinstance(v, tuple) else v for k, v in layer.items()} for layer in layers],
            "totals": dict(self.totals),
        }  # fmt: skip
