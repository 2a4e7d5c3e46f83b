"""Weights to codes and scales: every format in every granularity of the table, a slab of rows at a time."""

from __future__ import annotations

from dataclasses import replace
from math import log10

import torch
from torch import Tensor

from ..errors import Refused
from .codebook import codebook_weight
from .formats import HADAMARD_GROUPS, Format
from .granularity import Granularity, PerRow, PerTensor, largest
from .job import Job, Search, generator, matrix_shape, ratio, slabs
from .weight import QuantizedWeight


def quantize(
    weight: Tensor,
    format: Format,
    granularity: Granularity | None = None,
    name: str = "weight",
    search: Search | None = None,
    seed: int = 0,
    checked: bool = True,
) -> QuantizedWeight:
    """Round weight ``[out, in]`` to a format's codes, scaled so that each amax is the largest code.

    granularity: the format's default without; name: for messages; search: for better scales, slower;
    seed: above 0 rounds stochastically, so that a merged LoRA smaller than a step is not lost;
    checked: Refused for a NaN or an infinity, for which a GPU is waited for; without, its scale is NaN or infinite.

    >>> weight = quant.quantize(torch.randn(64, 32), quant.FORMATS["float8_e4m3fn"], quant.PerRow())
    >>> weight.codes.dtype, tuple(weight.scale.shape), weight.granularity.name
    (torch.float8_e4m3fn, (64, 1), 'per-row')
    """
    granularity, shape = granularity or format.granularities[0], matrix_shape(weight, name)
    if problem := unfit(format, granularity, shape):
        raise Refused(f"{name}: a weight {list(shape)} cannot be quantized: {problem}; leave it as it is.")
    amax = finite_amax(weight, name) if checked else largest(weight, (0, 1))
    rotation = rotation_group(shape[1]) if format.rotates else 0
    search = search.of(format) if search else None
    if format.grid:
        return codebook_weight(weight, Job(format, granularity, rotation, search=search), seed)
    outer = scale_of_scales(amax, format)
    job = Job(format, granularity, rotation, outer, search, generator(seed, weight.device))
    encode = encode_whole if isinstance(granularity, PerTensor) else encode_slabs
    codes, scale = encode(job, weight, amax)
    found = QuantizedWeight(format, codes, scale, granularity, shape, rotation=rotation, outer=job.outer)
    return with_gain(found, lengths(job, weight, codes, scale)) if job.searches_outer else found


def blank(format: Format, granularity: Granularity, shape: tuple[int, int]) -> QuantizedWeight:
    """A weight ``[out, in]`` of a format without its numbers, on no device: what it will be made of."""
    rotation = rotation_group(shape[1]) if format.rotates else 0
    with torch.device("meta"):
        codes = torch.empty((shape[0], shape[1] // format.per_byte), dtype=format.dtype)
        scale = torch.empty(granularity.scale_shape(shape))
        outer = torch.empty((shape[0], 1) if format.grid else ()) if format.outer_maximum or format.grid else None
        book = torch.empty(16) if format.grid else None
    return QuantizedWeight(format, codes, scale, granularity, shape, rotation=rotation, outer=outer, codebook=book)


##### What can be quantized


def unfit(format: Format, granularity: Granularity, shape: tuple[int, int]) -> str | None:
    """Why no weight ``[out, in]`` can have codes of format with scales of granularity, or None."""
    if not shape[0] * shape[1] > 0:
        return "it is empty"
    if not any(type(granularity) is type(g) for g in format.granularities):
        known = ", ".join(g.name for g in format.granularities)
        return f"{format.name} has no {granularity.name} scales, only {known}"
    step = input_step(format)
    return f"{format.name} needs inputs in multiples of {step}, not {shape[1]}" if shape[1] % step else None


def input_step(format: Format) -> int:
    """What ``in`` must be a multiple of: of bytes, of the smallest rotation, of int4_convrot's GEMM."""
    if format.rotates:
        return 64 if format.per_byte == 2 and not format.grid else HADAMARD_GROUPS[-1]
    return format.per_byte


def rotation_group(inputs: int) -> int:
    """The largest ConvRot group that divides inputs."""
    return next(group for group in HADAMARD_GROUPS if inputs % group == 0)


def finite_amax(weight: Tensor, name: str) -> Tensor:
    """Largest magnitude, float32 ``[]``; Refused where there is a NaN or an infinity."""
    return finite(largest(weight, (0, 1)), name)


def finite(amax: Tensor, name: str) -> Tensor:
    if not torch.isfinite(amax):
        kind = "NaN" if amax.isnan() else "infinite values"
        raise Refused(f"{name}: has {kind}, which no scale can hold; get an undamaged file or keep this layer.")
    return amax


##### What a search gains

TRIED = 64  # rows


def gain_of(weight: Tensor, format: Format, granularity: Granularity, search: Search | None) -> float | None:
    """By how many dB a search lowers the error of a weight ``[out, in]``, tried on some rows; None without one."""
    if search is None or search.of(format) is None or isinstance(granularity, PerTensor):
        return None
    rows = weight[:: -(-len(weight) // TRIED)].float()
    before, after = (
        float((quantize(rows, format, granularity, search=one).dequantize() - rows).norm()) for one in (None, search)
    )
    return 20 * log10(before / after) if before > 0 and after > 0 else 0.0


##### Scales, then codes


def scale_of_scales(amax: Tensor, format: Format) -> Tensor | None:
    """``[]``: maps the largest block scale to the largest one that can be stored; None for formats without."""
    if not format.outer_maximum:
        return None
    scale = amax / (format.outer_maximum * format.maximum)
    return torch.where(amax == 0, torch.ones_like(scale), scale.clamp(min=torch.finfo(torch.float32).tiny))


def encode_slabs(job: Job, weight: Tensor, amax: Tensor) -> tuple[Tensor, Tensor]:
    """Scales that belong to rows, slab by slab."""
    pieces = []
    # codes of four bits take twice as many steps, and so as many copies of a slab
    for slab in slabs(weight, job.granularity, job.format.per_byte):
        values = job.values(slab)
        own = job.granularity.amax(values)
        scale = searched(job, values, own) if job.search else job.scale(own)
        codes = job.codes(values, scale)
        rows = isinstance(job.granularity, PerRow)
        pieces.append((codes, job.unbiased(values, codes, scale) if rows else scale))
    codes, scales = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return codes, scales


def lengths(job: Job, weight: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Sums of squares of some rows, and of them times what they are rounded to, float64 ``[2]``; rows add up."""
    total, start = torch.zeros(2, dtype=torch.float64, device=weight.device), 0
    for slab in slabs(weight, job.granularity, job.format.per_byte):
        rows = slice(start, start + len(slab))
        values, start = job.values(slab), rows.stop
        rounded = job.format.values(codes[rows]) * job.granularity.expand(scale[rows], matrix_shape(values))
        total += torch.stack([values.square().sum(dtype=torch.float64), (values * rounded).sum(dtype=torch.float64)])
    return total


def with_gain(weight: QuantizedWeight, lengths: Tensor) -> QuantizedWeight:
    """With the second-level scale that makes a searched weight as long as it was; lengths: of all its rows."""
    assert weight.outer is not None
    gain = ratio(lengths[0], lengths[1]).float()
    return replace(weight, scale=weight.scale * gain, outer=weight.outer * gain)


def searched(job: Job, values: Tensor, amax: Tensor) -> Tensor:
    """The best scale of each amax, by trying."""
    assert job.search is not None
    best = job.scale(amax)
    least = job.error(values, best)
    for factor in job.search.tried():
        scale = job.scale(amax * factor)
        error = job.error(values, scale)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


def encode_whole(job: Job, weight: Tensor, amax: Tensor) -> tuple[Tensor, Tensor]:
    """One scale for all."""
    scale = tensor_scale(job, weight, amax)
    codes = torch.cat([job.codes(job.values(slab), scale) for slab in slabs(weight, job.granularity)])
    return codes, scale


def tensor_scale(job: Job, weight: Tensor, amax: Tensor) -> Tensor:
    """The scale of amax, or the best one that a search finds."""
    scales = [job.scale(amax), *(job.scale(amax * f) for f in (job.search.tried() if job.search else ()))]
    if len(scales) == 1:
        return scales[0]
    errors = [sum(job.error(job.values(s), scale).double() for s in slabs(weight, job.granularity)) for scale in scales]
    return scales[int(torch.stack(errors).argmin())]  # type: ignore[arg-type]
