"""What a quantization did, as a value: every layer with its reason and sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from ..text import text_table
from ..weights.job import gained


@dataclass(frozen=True)
class LayerStats:
    """One layer. bytes_before, bytes_after: of all it holds; reason: why (not) quantized.

    gain: by how many dB a search for better scales lowered the weight's error, None without one.
    """

    name: str
    quantized: bool
    reason: str
    shape: tuple[int, ...]
    bytes_before: int
    bytes_after: int
    gain: float | None = None


@dataclass(frozen=True)
class Stats(Mapping[str, object]):
    """What quantize_component did, also as a mapping. bytes: of all parameters and buffers of the module, not of its
    layers only.
    """

    method: str
    method_reason: str
    format: str | None
    granularity: str | None
    backend: str
    backend_reason: str
    family: str
    layers: tuple[LayerStats, ...]
    bytes_before: int
    bytes_after: int

    @property
    def quantized(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers if layer.quantized)

    @property
    def skipped(self) -> dict[str, str]:
        """Name -> reason."""
        return {layer.name: layer.reason for layer in self.layers if not layer.quantized}

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "quantized": list(self.quantized), "skipped": self.skipped}

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_json())

    def __len__(self) -> int:
        return len(self.to_json())

    def __getitem__(self, name: str) -> object:
        return self.to_json()[name]

    def table(self) -> str:
        """Totals, reasons, then one line a layer."""
        columns = ("layer", "decision", "shape", "MB before", "MB after", "reason")
        return "\n".join((*self.totals(), "", text_table(columns, [cells(layer) for layer in self.layers])))

    def totals(self) -> list[str]:
        saved = 1 - self.bytes_after / self.bytes_before if self.bytes_before else 0.0
        reasons = Counter(self.skipped.values())
        return [
            f"{self.method} ({self.method_reason}), {self.format} {self.granularity}, family {self.family}",
            f"backend {self.backend}: {self.backend_reason}",
            f"{len(self.quantized)} of {len(self.layers)} layers quantized, "
            f"{megabytes(self.bytes_before)} MB -> {megabytes(self.bytes_after)} MB ({saved:.0%} less)",
            *gained(layer.gain for layer in self.layers),
            *(f"{count} kept: {reason}" for reason, count in reasons.most_common()),
        ]


def cells(layer: LayerStats) -> list[str]:
    shape = " x ".join(map(str, layer.shape))
    decision = "quantized" if layer.quantized else "kept"
    return [layer.name, decision, shape, megabytes(layer.bytes_before), megabytes(layer.bytes_after), layer.reason]


def megabytes(count: int) -> str:
    return f"{count / 1e6:.2f}"
