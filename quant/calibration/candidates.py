"""What a layer may become: each format's bytes, and the error that it would make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..weights.encode import blank, quantize
from ..weights.formats import FORMATS, Format, format_named
from ..weights.granularity import Granularity
from ..weights.job import search_for
from ..weights.native import loads_in_core, native_tensors
from .priors import prior
from .rounding import calibrated
from .store import Record

if TYPE_CHECKING:
    from ..recipes.policy import Policy

USUAL = ("nvfp4", "int4", "int8", "float8_e4m3fn")  # of those that ComfyUI core loads, the best for their bytes
KEEP = "keep"  # a layer as it is
ROWS = 256  # of a weight that are tried; errors of rows are alike


@dataclass(frozen=True)
class Option:
    """One way for one layer. error: of the layer's output (of its weight, without moments), relative; way: why."""

    format: str
    granularity: str
    bytes: int
    error: float
    way: str = ""


@dataclass(frozen=True)
class Candidate:
    """A layer that a plan chooses for. factor: of the layer's error in the image's; options: by format, KEEP too;
    levels: what is seen of an error in a format beside others, 1 where nothing is known."""

    name: str
    shape: tuple[int, int]
    factor: float
    options: Mapping[str, Option]
    levels: Mapping[str, float] = field(default_factory=dict)

    @property
    def weights(self) -> int:
        return self.shape[0] * self.shape[1]

    def cost(self, format: str) -> float:
        """Square of what the image loses."""
        return (self.factor * self.levels.get(format, 1.0) * self.options[format].error) ** 2


def formats_of(names: Iterable[str]) -> tuple[Format, ...]:
    """The formats that a plan may choose from, the usual ones for none; Refused for unknown ones."""
    found = tuple(dict.fromkeys(format_named(name.strip()) for name in names if name.strip()))
    return found or tuple(map(format_named, USUAL))


def foreign(formats: Iterable[str]) -> list[str]:
    """Those that ComfyUI core does not load: only who names one gets it."""
    named = [FORMATS[name] for name in formats if name in FORMATS]
    return [format.name for format in named if not loads_in_core(format, format.granularities[0])]


def candidate(
    name: str, weight: Tensor, policies: Iterable[Policy], record: Record | None, effort: str = "best"
) -> Candidate:
    """What each policy's format would make of a layer, tried on some of its rows. weight: ``[out, in]``."""
    shape = (weight.shape[0], weight.shape[1])
    rows = spaced_rows(weight)
    options = {KEEP: Option(KEEP, "", weight.nbytes, 0.0, "as it is")}
    for policy in policies:
        if not policy.unfit(shape):
            options[policy.format.name] = option(name, shape, rows, policy, record, effort)
    return Candidate(name, shape, factor_of(name, record), options, levels_of(record))


def option(
    name: str, shape: tuple[int, int], rows: Tensor, policy: Policy, record: Record | None, effort: str
) -> Option:
    """One format as an option of a plan for a layer: its bytes, and its error, on inputs where they are known."""
    format, granularity = policy.format, policy.granularity
    size = stored_bytes(format, granularity, shape)
    if record is None:
        found = quantize(rows, format, granularity, name, search_for(effort)).dequantize()
        error = float((found - rows).norm() / rows.norm().clamp(min=1e-30))
        return Option(format.name, granularity.name, size, error, "error of the weight")
    known = calibrated(rows, format, granularity, record.moments, name)
    return Option(format.name, granularity.name, size, known.error, known.way)


def spaced_rows(weight: Tensor) -> Tensor:
    """Evenly spread rows in float32, and the one with the largest value, on which scales of all depend."""
    at = torch.linspace(0, len(weight) - 1, min(ROWS, len(weight))).round().long()
    largest = weight.amax(1).maximum(-weight.amin(1)).argmax().cpu()
    if largest not in at:
        at = torch.cat([at[:-1], largest.reshape(1)])
    return weight[at.to(weight.device)].float()


def stored_bytes(format: Format, granularity: Granularity, shape: tuple[int, int]) -> int:
    """Bytes of a weight of this shape as it is saved, without its description."""
    tensors = native_tensors(blank(format, granularity, shape), "")
    return sum(tensor.nbytes for name, tensor in tensors.items() if name != "comfy_quant")


def factor_of(name: str, record: Record | None) -> float:
    return prior(name) if record is None or record.factor is None else record.factor


def levels_of(record: Record | None) -> Mapping[str, float]:
    return {} if record is None or record.factor is None else record.levels


def image_error(costs: Iterable[float]) -> float:
    """Errors of layers add in squares."""
    return sqrt(sum(costs))
