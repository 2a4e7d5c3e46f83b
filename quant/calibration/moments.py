"""What a Linear is fed, as sums that any number of runs add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.rotation import rotate

LARGEST = 4096  # inputs of a block: its inverse takes five times its 64 MiB
SMALLEST = 256  # the largest group of a rotation, which a block must hold
SEEN = 2048  # rows of one call that are summed: sums cost less than the layer itself
SLAB = 1024  # rows in float32 at a time
COMPARED = 512  # rows that each one is compared with, evenly spread
APART = 8  # of so many images of a batch one is held out
FEWEST = 4  # images of a batch of which one is held out
SKETCHED = 64  # sums of held-out rows that are kept: what they tell of an error is right within a few percent


@dataclass(frozen=True)
class Moments:
    """Second moments of a Linear's inputs, in blocks along ``in``.

    squares: sum of ``x.T @ x`` over rows, of which those alike count as one, float32 ``[blocks, size, size]``, zeros
    beyond inputs; amax: the largest magnitude of all rows, float32 ``[]``; rows: how many were summed; inputs: ``in``;
    held_out: a sketch of the rows of images that squares lack, float32 ``[64, in]``, None where there were none.
    """

    squares: Tensor
    amax: Tensor
    rows: int
    inputs: int
    held_out: Tensor | None = None

    @property
    def size(self) -> int:
        return self.squares.shape[-1]

    def mean_squares(self) -> Tensor:
        """Of each input, ``[in]``."""
        return self.squares.diagonal(dim1=1, dim2=2).reshape(-1)[: self.inputs] / max(1, self.rows)

    def energy(self, weight: Tensor) -> float:
        """Mean square of ``x @ weight.T`` summed over outputs; of a difference of weights, the output's error."""
        parts = in_blocks(weight.float(), self.size).transpose(0, 1)
        total = (parts @ self.squares.to(weight.device)).mul_(parts).sum(dtype=torch.float64)
        return float(total) / max(1, self.rows)

    def lost(self, difference: Tensor, weight: Tensor) -> float:
        """Relative error of the output by a difference of the weight, both ``[out, in]``.

        On images held out, if any: rounding that was fitted to squares has half to two thirds of its error on them.
        """
        if self.held_out is None or not self.held_out.any():
            return self.lost_on_seen(difference, weight)
        rows = self.held_out.to(weight.device)
        return float((rows @ difference.float().T).norm() / (rows @ weight.float().T).norm().clamp(min=1e-15))

    def lost_on_seen(self, difference: Tensor, weight: Tensor) -> float:
        """The same on the images that squares are of, for differences that were not fitted to them."""
        return sqrt(max(0.0, self.energy(difference)) / max(self.energy(weight), 1e-30))

    def rotated(self, group: int) -> Moments:
        """Those of the inputs after a ConvRot rotation, to be fitted to: without held_out; group: 0 for none."""
        if not group:
            return self
        once = rotate(self.squares.flatten(0, 1), group).view_as(self.squares)
        twice = rotate(once.transpose(1, 2).flatten(0, 1), group).view_as(self.squares)
        return Moments(twice, self.amax, self.rows, self.inputs)

    def __add__(self, other: Moments) -> Moments:
        amax = torch.maximum(self.amax, other.amax)
        held_out = joined(self.held_out, other.held_out)
        return Moments(self.squares + other.squares, amax, self.rows + other.rows, self.inputs, held_out)


def joined(sketch: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sketch of both's rows."""
    return sketch + other if sketch is not None and other is not None else other if sketch is None else sketch


def in_blocks(values: Tensor, size: int) -> Tensor:
    """``[rows, in]`` -> ``[rows, blocks, size]``, filled up with zeros."""
    missing = -values.shape[1] % size
    return (F.pad(values, (0, missing)) if missing else values).unflatten(1, (-1, size))


def no_moments(inputs: int, size: int) -> Moments:
    size = min(size, inputs)
    return Moments(torch.zeros(ceil(inputs / size), size, size), torch.zeros(()), 0, inputs)


def moments_of(x: Tensor, size: int = LARGEST, seen: int = SEEN, conditionings: int = 1) -> Moments:
    """Moments of one batch of inputs ``[..., in]``, of at most seen rows of it; amax is of all.

    conditionings: for how many, one after the other, the batch has the same images, as with guidance.
    """
    rows = x.detach().reshape(-1, x.shape[-1])
    at, shares = drawn(rarity(rows), seen)
    apart = is_held_out(x.shape, conditionings).to(x.device)[at // max(1, rows_each(x.shape))]
    squares = no_moments(rows.shape[1], size).squares.to(x.device)
    for chosen, share in zip(at[~apart].split(SLAB), shares[~apart].split(SLAB), strict=True):
        parts = in_blocks(rows[chosen].float(), squares.shape[-1]).transpose(0, 1)
        squares.baddbmm_((parts * share.unsqueeze(1)).transpose(1, 2), parts)
    low, high = torch.aminmax(rows) if rows.numel() else (rows.new_zeros(()), rows.new_zeros(()))
    held_out = sketch(rows[at[apart]].float() * shares[apart].sqrt().unsqueeze(1)) if apart.any() else None
    return Moments(squares, torch.maximum(high, -low).float(), int((~apart).sum()), rows.shape[1], held_out)


def rows_each(shape: Sequence[int]) -> int:
    """Rows of one image of a batch ``[images, ..., in]``; of what has no images, all are one's."""
    return prod(shape[1:-1]) if len(shape) > 2 else max(1, prod(shape[:-1]))


def is_held_out(shape: Sequence[int], conditionings: int) -> Tensor:
    """Of each image of a batch whether squares do without it, bool ``[images]``: the last ones, whole.

    Rows of one image are alike from step to step, and tokens of a prompt that no other image has are never met again:
    only an image left out whole says what rounding does to another one.
    """
    count = shape[0] if len(shape) > 2 else 1
    images = count // conditionings if count % conditionings == 0 else count
    apart = max(1, images // APART) if images >= FEWEST else 0
    return torch.arange(count) % images >= images - apart


def sketch(rows: Tensor) -> Tensor:
    """Sums of rows ``[n, in]`` with random signs, ``[64, in]``: products of them are those of the rows in the mean.

    A tug-of-war sketch (Alon, Matias and Szegedy, 1996): one of more rows is the sum of theirs. Signs are drawn by what
    the rows are, so that the same rows have the same ones.
    """
    draw = torch.Generator().manual_seed(hash(float(rows.sum())))
    signs = torch.randint(0, 2, (SKETCHED, len(rows)), generator=draw).mul_(2).sub_(1)
    return signs.to(rows) @ rows


def rarity(rows: Tensor) -> Tensor:
    """What each of rows ``[n, in]`` counts, float32 ``[n]``, one in the mean: the less, the more others are like it.

    Half a thousand rows of a short prompt's padding are one row to the image, and would be all that moments show.
    """
    others = F.normalize(rows[:: max(1, ceil(len(rows) / COMPARED))].float(), dim=1)
    alike = [F.normalize(slab.float(), dim=1) @ others.T for slab in rows.split(SLAB)]
    # the eighth power: of rows that only point the same way little is left
    counts = torch.cat([one.square_().square_().square_().sum(1).clamp_(min=1) for one in alike])
    shares = counts.reciprocal_()
    return shares / shares.mean()


def drawn(shares: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Which rows, and what each counts: of more than most, so many by what they count, evenly spread, each once."""
    if len(shares) <= most:
        return torch.arange(len(shares), device=shares.device), shares
    marks = (torch.arange(most, dtype=torch.float64) + 0.5) * (len(shares) / most)
    # not every device has float64
    at = torch.searchsorted(shares.cpu().double().cumsum(0), marks).clamp_(max=len(shares) - 1).to(shares.device)
    return at, shares.new_ones(most)


def block_size(inputs: list[int], limit: float) -> int:
    """Inputs of a block for which the moments of Linears with these inputs take limit bytes at most, if any does."""
    size = LARGEST
    while size > SMALLEST and sum(stored_bytes(count, size) for count in inputs) > limit:
        size //= 2
    return size


def stored_bytes(inputs: int, size: int) -> int:
    """Of the moments of one layer, held-out rows' sketch included."""
    size = min(size, inputs)
    return (ceil(inputs / size) * size * size + SKETCHED * inputs) * 4


def features(x: Any) -> Tensor:
    """What a Linear multiplies: of a sparse tensor, as Trellis2's Linears take, its features."""
    found: Tensor = x if isinstance(x, Tensor) else x.feats
    return found
