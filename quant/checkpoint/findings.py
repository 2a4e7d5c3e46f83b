"""What the steps of a survey have found so far, and what a verdict tells of each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from ..files.stored import Source
from ..text import few
from .dialects import Dialect, dialect_of
from .layer import Layer
from .module import Module
from .verdict import PLAIN_CAST, REFUSED, SCALED, SHOWN, LayerVerdict, Verdict


@dataclass
class Findings:
    """What a survey has found so far. refused: layer or key -> reason; notes: what else is to be known; biases: name ->
    what makes it, where it is not what the file holds."""

    source: Source
    modules: dict[str, Module]
    layers: dict[str, Layer] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    consumed: set[str] = field(default_factory=set)
    biases: dict[str, Callable[[], Tensor]] = field(default_factory=dict)

    @cached_property
    def verdict(self) -> Verdict:
        rows = [self.row(name) for name in sorted({*self.layers, *self.refused} & set(self.modules))]
        dialects = dict.fromkeys(d.name for d in map(self.dialect, self.modules.values()) if d)
        reasons = (*self.refusals(), *self.notes)
        name = " + ".join(dialects) or "unquantized"
        return Verdict(
            source=self.source.name,
            accepted=not self.refused,
            dialect=name,
            reasons=reasons,
            layers=tuple(rows),
            totals=self.totals(rows),
        )

    def dialect(self, module: Module) -> Dialect | None:
        layer = self.layers.get(module.name)
        return layer.dialect if layer else dialect_of(module) if module.name in self.refused else None

    def row(self, name: str) -> LayerVerdict:
        layer, refusal = self.layers.get(name), self.refused.get(name)
        if layer is None:
            return LayerVerdict(name, self.modules[name].shape(), decision=REFUSED, reason=refusal or "")
        return LayerVerdict(
            name,
            layer.shape,
            format=layer.format.name,
            granularity=layer.granularity.name,
            scale_shape=None if layer.plain else layer.scale_shape,
            decision=REFUSED if refusal else PLAIN_CAST if layer.plain else SCALED,
            reason=refusal or facts(layer),
        )

    def refusals(self) -> list[str]:
        """One sentence for each reason, with the names it holds for."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.refused.items():
            by_reason.setdefault(reason, []).append(name)
        return [f"{few(names, SHOWN)}: {reason}." for reason, names in by_reason.items()]

    def totals(self, rows: list[LayerVerdict]) -> dict[str, int]:
        counts = Counter(row.decision for row in rows)
        return {
            **{decision: counts[decision] for decision in (SCALED, PLAIN_CAST, REFUSED)},
            "other tensors": len(self.source) - len(self.consumed),
            "tensors": len(self.source), "bytes": self.source.total_bytes,
        }  # fmt: skip


def facts(layer: Layer) -> str:
    """Why a layer is accepted as it is, for people."""
    extras = [
        "no scale, and its values are those of weights" if layer.plain else layer.dialect.name,
        "stored as [in, out]" if layer.transposed else "",
        "scale divides" if layer.reciprocal else "",
        "block scales in cuBLAS tiles" if layer.swizzled else "",
        f"rotated by {layer.rotation}" if layer.rotation else "",
        f"smoothed by {key}" if (key := layer.module.key("smooth") or layer.module.key("smooth_divisor")) else "",
        f"low rank by {layer.module.key('up')}" if layer.module.key("up") else "",
    ]
    return ", ".join(e for e in extras if e)
