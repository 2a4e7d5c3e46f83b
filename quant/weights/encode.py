"""Weights to codes and scales: every format in every granularity of the table, a slab of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import Refused
from .formats import HADAMARD_GROUPS, Format
from .granularity import Granularity, PerBlock, PerTensor, largest
from .rotation import rotate
from .weight import QuantizedWeight

# Elements of a slab: its float32 copy stays in the cache, and beside the codes nothing of the weight's size exists.
SLAB = 1 << 19
# On a GPU launches cost more than memory: two slabs for 9216 x 3072, 256 MiB held beside them
GPU_SLAB = 1 << 24


@dataclass(frozen=True)
class Search:
    """Search for the scales with the least error: amax is multiplied by each factor, the best wins scale by scale.

    importance: mean square ``[in]`` of the activations, which turns the weight's error into the output's; or None.
    """

    factors: tuple[float, ...] = tuple(1 - i / 32 for i in range(13))
    importance: Tensor | None = None


@dataclass(frozen=True)
class Job:
    """What one weight is quantized to.

    outer: the second-level scale ``[]`` where the format has one; generator: of stochastic rounding, None for nearest.
    """

    format: Format
    granularity: Granularity
    rotation: int = 0
    outer: Tensor | None = None
    search: Search | None = None
    generator: torch.Generator | None = None

    def values(self, slab: Tensor) -> Tensor:
        """A slab of the weight, float32, rotated if the format wants it."""
        return rotate(slab.float(), self.rotation) if self.rotation else slab.float()

    def scale(self, amax: Tensor) -> Tensor:
        return self.format.scale_of(amax, self.format.maximum, self.outer)

    def codes(self, values: Tensor, scale: Tensor) -> Tensor:
        """Float32 values ``[rows, in]`` -> codes; all zeros where the scale is zero."""
        safe = torch.where(scale == 0, torch.inf, scale) if self.outer is not None else scale
        scaled = values / self.granularity.expand(safe, matrix_shape(values))
        if self.generator is not None:
            return stochastic_codes(scaled, self.format, self.generator)
        # adding zero makes +0 of -0
        return self.format.codes(scaled.add_(0.0) if safe is not scale else scaled)

    def error(self, values: Tensor, scale: Tensor) -> Tensor:
        """Squared error of each scale's values, weighted by the search's importance; shaped as the scale."""
        shape = matrix_shape(values)
        again = self.format.values(self.codes(values, scale)) * self.granularity.expand(scale, shape)
        squares = again.sub_(values).square_()
        importance = self.search.importance if self.search else None
        if importance is not None:
            squares.mul_(rotated_importance(importance, self.rotation).to(squares))
        return self.granularity.total(squares)


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
    if format.grid:
        return codebook_weight(weight, format, granularity, rotation, seed)
    outer = scale_of_scales(amax, format)
    job = Job(format, granularity, rotation, outer, search, generator(seed, weight.device))
    encode = encode_whole if isinstance(granularity, PerTensor) else encode_slabs
    codes, scale = encode(job, weight, amax)
    return QuantizedWeight(format, codes, scale, granularity, shape, rotation=rotation, outer=job.outer)


##### What can be quantized


def matrix_shape(weight: Tensor, name: str = "weight") -> tuple[int, int]:
    if weight.dim() != 2 or not weight.is_floating_point():
        raise Refused(
            f"{name}: is {str(weight.dtype).removeprefix('torch.')} {list(weight.shape)}; only floating-point "
            "matrices [out, in] are quantized: flatten a convolution's after its first dimension."
        )
    return (weight.shape[0], weight.shape[1])


def unfit(format: Format, granularity: Granularity, shape: tuple[int, int]) -> str | None:
    """Why a weight ``[out, in]`` cannot be held in format with granularity, or None."""
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


##### Scales, then codes


def scale_of_scales(amax: Tensor, format: Format) -> Tensor | None:
    """``[]``: maps the largest block scale to the largest one that can be stored; None for formats without."""
    if not format.outer_maximum:
        return None
    scale = amax / (format.outer_maximum * format.maximum)
    return torch.where(amax == 0, torch.ones_like(scale), scale.clamp(min=torch.finfo(torch.float32).tiny))


def slabs(weight: Tensor, granularity: Granularity, share: int = 1) -> Iterator[Tensor]:
    """Rows of weight in pieces of about SLAB elements over share, whole blocks each."""
    step = granularity.rows if isinstance(granularity, PerBlock) else 1
    elements = SLAB if weight.device.type == "cpu" else GPU_SLAB
    rows = max(1, elements // share // weight.shape[1] // step) * step
    return iter(weight.split(rows))


def encode_slabs(job: Job, weight: Tensor, amax: Tensor) -> tuple[Tensor, Tensor]:
    """Scales that belong to rows, slab by slab."""
    pieces = []
    # codes of four bits take twice as many steps, and so as many copies of a slab
    for slab in slabs(weight, job.granularity, job.format.per_byte):
        values = job.values(slab)
        own = job.granularity.amax(values)
        scale = searched(job, values, own) if job.search else job.scale(own)
        pieces.append((job.codes(values, scale), scale))
    codes, scales = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return codes, scales


def searched(job: Job, values: Tensor, amax: Tensor) -> Tensor:
    """The best scale of each amax, by trying."""
    assert job.search is not None
    best = job.scale(amax)
    least = job.error(values, best)
    for factor in job.search.factors:
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
    scales = [job.scale(amax), *(job.scale(amax * f) for f in (job.search.factors if job.search else ()))]
    if len(scales) == 1:
        return scales[0]
    errors = [sum(job.error(job.values(s), scale).double() for s in slabs(weight, job.granularity)) for scale in scales]
    return scales[int(torch.stack(errors).argmin())]  # type: ignore[arg-type]


def rotated_importance(importance: Tensor, rotation: int) -> Tensor:
    """Mean square of the activations after rotation: a Hadamard matrix mixes a group's equally."""
    if not rotation:
        return importance
    return importance.view(-1, rotation).mean(1).repeat_interleave(rotation)


def generator(seed: int, device: torch.device) -> torch.Generator | None:
    return torch.Generator(device).manual_seed(seed) if seed > 0 else None


def stochastic_codes(scaled: Tensor, format: Format, generator: torch.Generator) -> Tensor:
    """Codes rounded up or down at random, by how near each is; to nearest where a format's steps are unlike."""
    if format.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        import comfy_kitchen

        scaled = scaled.clamp_(-format.maximum, format.maximum)
        noise = torch.randint(0, 256, scaled.shape, dtype=torch.uint8, device=scaled.device, generator=generator)
        return comfy_kitchen.stochastic_rounding_fp8(scaled, noise, format.dtype)
    if not format.dtype.is_floating_point and not format.outer_maximum:
        scaled.add_(torch.rand(scaled.shape, device=scaled.device, generator=generator).sub_(0.5))
    return format.codes(scaled)


def codebook_weight(
    weight: Tensor, format: Format, granularity: Granularity, rotation: int, seed: int = 0
) -> QuantizedWeight:
    """INT4 with comfy-kitchen's codebook and its least-squares group scales."""
    sample = weight[:: max(1, weight.numel() * 4 // SLAB)]
    codebook = kitchen_int4(sample, granularity, rotation)[3]
    # its searches hold some ninety bytes an element
    pieces = [kitchen_int4(slab, granularity, rotation, codebook, seed) for slab in slabs(weight, granularity, 4)]
    codes, inner, channel = (torch.cat(parts) for parts in list(zip(*pieces, strict=True))[:3])
    outer = channel.view(-1, 1)
    return QuantizedWeight(
        format, codes, inner.float() * outer, granularity, matrix_shape(weight), rotation=rotation, outer=outer,
        codebook=codebook,
    )  # fmt: skip


def kitchen_int4(
    weight: Tensor, granularity: Granularity, rotation: int, codebook: Tensor | None = None, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes, float8 scales of groups, float32 scales of outputs, and the codebook, given or decided here."""
    # imported when needed: it takes longer to import than torch itself
    import comfy_kitchen

    codes, inner, channel, _, book = comfy_kitchen.quantize_w4a8_int8_weight(
        weight.float(), group_size=granularity.cols, convrot_groupsize=rotation, codebook_tensor=codebook,  # type: ignore[union-attr]
        stochastic_rounding=seed,
    )  # fmt: skip
    return codes, inner, channel, book
