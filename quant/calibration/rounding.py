"""A weight quantized with the moments of its inputs: scales searched for the output, codes with error feedback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..weights.codebook import COPIES, nearest_levels, on_grid, packed
from ..weights.encode import gain_of, quantize
from ..weights.formats import Format, inner_scale
from ..weights.granularity import Granularity, PerBlock, PerRow
from ..weights.job import Job, Search, slabs
from ..weights.rotation import rotate
from ..weights.weight import QuantizedWeight
from .feedback import Snap, fed_back
from .moments import Moments, in_blocks
from .store import Calibration

OWN = 1024  # inputs of a block of moments that a weight itself suggests: 3072 x 3072 takes 5 s instead of 1


@dataclass(frozen=True)
class Calibrated:
    """A weight and how it came about. error: of the output, relative; nearest: what plain rounding would have had."""

    weight: QuantizedWeight
    error: float
    nearest: float
    way: str

    def line(self) -> str:
        return f"{self.way}: output error {self.error:.4f}, to nearest {self.nearest:.4f}"


def calibrated(
    weight: Tensor, format: Format, granularity: Granularity, moments: Moments, name: str = "weight"
) -> Calibrated:
    """Weight ``[out, in]`` rounded in each way there is; the one with the least error of the output.

    On images held out, if any: an error on what it was fitted to would be half to two thirds of that on others.
    """
    values = weight.float()
    found = (
        (way, one, moments.lost(one.dequantize() - values, values))
        for way, one in ways(weight, format, granularity, moments, name)
    )
    (_, first, nearest), *others = found
    best = min([("to nearest", first, nearest), *others], key=lambda one: one[2])
    return Calibrated(with_input_scale(best[1], moments), best[2], nearest, best[0])


def ways(
    weight: Tensor, format: Format, granularity: Granularity, moments: Moments, name: str
) -> Iterator[tuple[str, QuantizedWeight]]:
    """Plain rounding first, then scales searched for these inputs, then error feedback (GPTQ) on those scales."""
    plain = quantize(weight, format, granularity, name)
    yield "to nearest", plain
    if format.factors:
        plain = quantize(weight, format, granularity, name, Search(moments.mean_squares()))
        yield "scales searched", plain
    fed = with_feedback(weight, plain, moments)
    if fed is not None:
        yield "error feedback", fed


def with_input_scale(weight: QuantizedWeight, moments: Moments) -> QuantizedWeight:
    """With the static scale of the activations where ComfyUI reads one: it scales them by 1 without.

    Plain amax: clipping by percentiles loses 1 to 25 dB (NVIDIA/Model-Optimizer PR 1545).
    """
    if not takes_input_scale(weight.format):
        return weight
    scale = moments.amax / weight.format.maximum if moments.amax > 0 else torch.ones(())
    return replace(weight, input_scale=scale.to(weight.scale.device))


def takes_input_scale(format: Format) -> bool:
    return format.name.startswith("float8")


def rounded(
    weight: Tensor, format: Format, granularity: Granularity, known: Calibration | None, name: str
) -> tuple[QuantizedWeight, str, float | None]:
    """Weight ``[out, in]`` with what is known of its inputs, and how; else with searched scales, and what they gain.

    Returns the weight, a clause on the way or "", and the gain in dB of the weight's error or None.
    """
    record = known.of(name, weight) if known else None
    if record is not None:
        found = calibrated(weight, format, granularity, record.moments, name)
        return found.weight, found.line(), None
    search = Search()
    alone = without_data(weight, format, granularity, name, search)
    return alone, "", gain_of(weight, format, granularity, search)


##### Where nothing is known of the inputs


def without_data(
    weight: Tensor, format: Format, granularity: Granularity, name: str, search: Search | None
) -> QuantizedWeight:
    """Weight ``[out, in]`` rounded by itself: on searched scales with error feedback where the format gains by it."""
    found = quantize(weight, format, granularity, name, search)
    fed = with_feedback(weight, found, own_moments(weight)) if search and format.feeds_itself else None
    return found if fed is None else fed


def own_moments(weight: Tensor) -> Moments:
    """Moments that a trained weight ``[out, in]`` suggests of its inputs: ``W.T @ W``, and as much of inputs alike.

    Training adds outer products with a layer's inputs to its weight, so that its rows lie where these do. In place of
    moments that were seen it lowers the output's error of 4 bits by 0.7 to 1 dB; those lower it by 6 to 10.
    """
    parts = in_blocks(weight.float(), min(OWN, weight.shape[1])).transpose(0, 1)
    squares = parts.transpose(1, 2) @ parts
    mean = squares.diagonal(dim1=1, dim2=2).mean()
    squares.diagonal(dim1=1, dim2=2).add_(mean)
    return Moments(squares, torch.zeros(()), len(weight), weight.shape[1])


##### Error feedback on the scales of a weight


def with_feedback(weight: Tensor, start: QuantizedWeight, moments: Moments) -> QuantizedWeight | None:
    """Other codes for the scales of start; None where the moments have no inverse."""
    values = rotate(weight.float(), start.rotation) if start.rotation else weight.float()
    turned, rounded, snap = moments.rotated(start.rotation), [], snapping(start)
    for index, squares in enumerate(turned.squares.to(values.device)):
        first = index * turned.size
        part = values[:, first : first + turned.size]
        width = part.shape[1]
        found = fed_back(part, squares[:width, :width], partial(from_input, snap, first))
        if found is None:
            return None
        rounded.append(found)
    return with_values(start, torch.cat(rounded, 1))


def from_input(snap: Snap, first: int, at: int, column: Tensor) -> Tensor:
    return snap(first + at, column)


def snapping(weight: QuantizedWeight) -> Snap:
    """Error feedback's rounding: one input's column to the values that the weight's scale there allows."""
    inner = weight.scale if weight.outer is None or not weight.format.grid else inner_scale(weight.scale, weight.outer)

    def snap(at: int, column: Tensor) -> Tensor:
        scale = column_of(inner.float(), weight.granularity, at, len(column))
        if not weight.format.grid:
            return nearest(weight.format, column / torch.where(scale == 0, torch.inf, scale)) * scale
        assert weight.codebook is not None and weight.outer is not None
        outer = weight.outer.flatten()
        return on_grid(weight.codebook[nearest_levels(column, scale, outer, weight.codebook)], scale, outer)

    return snap


def column_of(scale: Tensor, granularity: Granularity, at: int, rows: int) -> Tensor:
    """The scale of each output at one input: ``[rows]``, or one for all."""
    if isinstance(granularity, PerBlock):
        return scale[:, at // granularity.cols].repeat_interleave(granularity.rows)[:rows]
    return scale.flatten() if isinstance(granularity, PerRow) else scale.reshape(1)


def nearest(format: Format, scaled: Tensor) -> Tensor:
    """Values in units of their scale, rounded to the format's: ``[n]`` -> ``[n]``."""
    # codes are packed along a row, so that a row of even length serves for any
    row = torch.cat([scaled, scaled.new_zeros(len(scaled) % 2)]).unsqueeze(0)
    return format.values(format.codes(row)).flatten()[: len(scaled)]


def with_values(weight: QuantizedWeight, values: Tensor) -> QuantizedWeight:
    """Rounded values, which lie on the scales of a weight, as its codes."""
    if weight.format.grid:
        return replace(weight, codes=torch.cat([*grid_codes(weight, values)]))
    job, start, codes = Job(weight.format, weight.granularity, outer=weight.outer), 0, []
    for slab in slabs(values, weight.granularity):
        codes.append(job.codes(slab, rows_of(weight, start, len(slab))))
        start += len(slab)
    return replace(weight, codes=torch.cat(codes))


def grid_codes(weight: QuantizedWeight, values: Tensor) -> Iterator[Tensor]:
    """Codes of a format with a codebook, slab by slab: indices take several times what values do."""
    assert weight.codebook is not None and weight.outer is not None
    inner, start = inner_scale(weight.scale, weight.outer).float(), 0
    for slab in slabs(values, weight.granularity, COPIES):
        rows = slice(start, start + len(slab))
        wide = weight.granularity.expand(inner[rows], (slab.shape[0], slab.shape[1]))
        yield packed(nearest_levels(slab, wide, weight.outer[rows], weight.codebook))
        start += len(slab)


def rows_of(weight: QuantizedWeight, start: int, count: int) -> Tensor:
    """The scales of some rows, whole blocks of them."""
    if weight.scale.dim() == 0:
        return weight.scale
    step = weight.granularity.rows if isinstance(weight.granularity, PerBlock) else 1
    return weight.scale[start // step : -(-(start + count) // step)]
