"""INT4 with a codebook (W4A8): codes whose values are scaled by group to an int8 grid, as comfy-kitchen makes them."""

from __future__ import annotations

import torch
from torch import Tensor

from .formats import inner_scale
from .job import SLAB, Job, longer, matrix_shape, rotated_importance, slabs
from .packing import pack, unpack
from .weight import QuantizedWeight

COPIES = 4  # its searches hold some ninety bytes an element
ROUNDS = 3  # of fitting a codebook, each with a search for scales; more gain less than a thousandth


def codebook_weight(weight: Tensor, job: Job, seed: int = 0) -> QuantizedWeight:
    """Weight ``[out, in]`` with comfy-kitchen's codebook and group scales, both better ones where job has a search."""
    sample = weight[:: max(1, weight.numel() * 4 // SLAB)]
    codebook = fitted(job, sample, kitchen_int4(sample, job)[3])
    parts = slabs(weight, job.granularity, COPIES)
    pieces = [finer(job, slab, kitchen_int4(slab, job, codebook, seed)) for slab in parts]
    codes, inner, channel = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    outer = channel.view(-1, 1)
    return QuantizedWeight(
        job.format, codes, inner.float() * outer, job.granularity, matrix_shape(weight), rotation=job.rotation,
        outer=outer, codebook=codebook,
    )  # fmt: skip


def kitchen_int4(
    weight: Tensor, job: Job, codebook: Tensor | None = None, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes, float8 scales of groups, float32 scales of outputs, and the codebook, given or decided here."""
    # imported when needed: it takes longer to import than torch itself
    import comfy_kitchen

    codes, inner, channel, _, book = comfy_kitchen.quantize_w4a8_int8_weight(
        weight.float(), group_size=job.granularity.cols, convrot_groupsize=job.rotation,  # type: ignore[union-attr]
        codebook_tensor=codebook, stochastic_rounding=seed,
    )  # fmt: skip
    return codes, inner, channel, book


##### Better codebooks and scales of groups


def fitted(job: Job, sample: Tensor, book: Tensor) -> Tensor:
    """The codebook whose values are the means of those they stand for (Lloyd), by turns with the scales' search."""
    for _ in range(ROUNDS if job.search else 0):
        parts = [finer(job, slab, kitchen_int4(slab, job, book)) for slab in slabs(sample, job.granularity, COPIES)]
        codes, inner, channel = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        values = job.values(sample)
        scale = job.granularity.expand(inner.float(), matrix_shape(values)) * channel.view(-1, 1)
        book = means(unpack(codes, high_first=False), values, scale, book)
    return book


def means(levels: Tensor, values: Tensor, scale: Tensor, book: Tensor) -> Tensor:
    """For each level the value that is nearest to all of its elements, in units of their scales, by least squares."""
    index = levels.flatten().long()
    top = torch.zeros_like(book).index_add_(0, index, (values * scale).flatten())
    bottom = torch.zeros_like(book).index_add_(0, index, scale.square().flatten())
    return torch.where(bottom > 0, top / bottom, book).sort().values


def finer(job: Job, slab: Tensor, found: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Codes and scales of a slab, with the group scales of the least error where they are searched."""
    codes, best, channel, book = found
    if job.search is None:
        return codes, best, channel
    values, outer = job.values(slab), channel.view(-1, 1)
    least = error_of(job, values, best, outer, book)
    for factor in job.search.tried():
        inner = inner_scale(found[1].float() * factor, torch.ones(()))
        error = error_of(job, values, inner, outer, book)
        best = torch.where(error < least, inner.float(), best.float()).to(inner.dtype)
        least = torch.minimum(error, least)
    wide = job.granularity.expand(best.float(), matrix_shape(values))
    levels = nearest_levels(values, wide, outer, book)
    return packed(levels), best, channel * longer(values, on_grid(book[levels], wide, outer)).view_as(channel)


def error_of(job: Job, values: Tensor, inner: Tensor, outer: Tensor, book: Tensor) -> Tensor:
    """Squared error ``[out, groups]``, weighted by the search's importance."""
    wide = job.granularity.expand(inner.float(), matrix_shape(values))
    squares = on_grid(book[nearest_levels(values, wide, outer, book)], wide, outer).sub_(values).square_()
    if job.search is not None and job.search.importance is not None:
        squares.mul_(rotated_importance(job.search.importance, job.rotation).to(squares))
    return job.granularity.total(squares)


def nearest_levels(values: Tensor, inner: Tensor, outer: Tensor, book: Tensor) -> Tensor:
    """Index of the nearest of the codebook's values, int64; inner: the scale of each element."""
    scale = inner * outer
    return torch.bucketize(values / torch.where(scale == 0, torch.inf, scale), (book[1:] + book[:-1]) / 2)


def on_grid(values: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """The codebook's values scaled and rounded to the int8 grid, as the GEMM sees them."""
    return (values * inner).round_().clamp_(-127, 127).mul_(outer)


def packed(levels: Tensor) -> Tensor:
    return pack(levels.to(torch.int8), high_first=False).view(torch.int8)
