"""What a Linear is fed, as sums that any number of runs add up to."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
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


@dataclass(frozen=True)
class Moments:
    """Second moments of a Linear's inputs, in blocks along ``in``.

    squares: sum of ``x.T @ x`` over rows, of which those alike count as one, float32 ``[blocks, size, size]``, zeros
    beyond inputs; amax: the largest magnitude of all rows, float32 ``[]``; rows: how many were summed; inputs: ``in``.
    """

    squares: Tensor
    amax: Tensor
    rows: int
    inputs: int

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

    def rotated(self, group: int) -> Moments:
        """Those of the inputs after a ConvRot rotation; 0 for none."""
        if not group:
            return self
        once = rotate(self.squares.flatten(0, 1), group).view_as(self.squares)
        twice = rotate(once.transpose(1, 2).flatten(0, 1), group).view_as(self.squares)
        return Moments(twice, self.amax, self.rows, self.inputs)

    def __add__(self, other: Moments) -> Moments:
        amax = torch.maximum(self.amax, other.amax)
        return Moments(self.squares + other.squares, amax, self.rows + other.rows, self.inputs)


def in_blocks(values: Tensor, size: int) -> Tensor:
    """``[rows, in]`` -> ``[rows, blocks, size]``, filled up with zeros."""
    missing = -values.shape[1] % size
    return (F.pad(values, (0, missing)) if missing else values).unflatten(1, (-1, size))


def no_moments(inputs: int, size: int) -> Moments:
    size = min(size, inputs)
    return Moments(torch.zeros(ceil(inputs / size), size, size), torch.zeros(()), 0, inputs)


def moments_of(x: Tensor, size: int = LARGEST, seen: int = SEEN) -> Moments:
    """Moments of one batch of inputs ``[..., in]``, of at most seen rows of it; amax is of all."""
    rows = x.detach().reshape(-1, x.shape[-1])
    inputs = rows.shape[1]
    chosen, shares = drawn(rows, rarity(rows), seen)
    squares = no_moments(inputs, size).squares.to(x.device)
    for slab, share in zip(chosen.split(SLAB), shares.split(SLAB), strict=True):
        parts = in_blocks(slab.float(), squares.shape[-1]).transpose(0, 1)
        squares.baddbmm_((parts * share.unsqueeze(1)).transpose(1, 2), parts)
    low, high = torch.aminmax(rows) if rows.numel() else (rows.new_zeros(()), rows.new_zeros(()))
    return Moments(squares, torch.maximum(high, -low).float(), len(chosen), inputs)


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


def drawn(rows: Tensor, shares: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Rows and what each counts: of more than most, so many by what they count, evenly spread, each then once."""
    if len(rows) <= most:
        return rows, shares
    marks = (torch.arange(most, dtype=torch.float64) + 0.5) * (len(rows) / most)
    # not every device has float64
    at = torch.searchsorted(shares.cpu().double().cumsum(0), marks).clamp_(max=len(rows) - 1).to(rows.device)
    return rows[at], shares.new_ones(most)


def block_size(inputs: list[int], limit: int) -> int:
    """Inputs of a block for which the moments of Linears with these inputs take limit bytes at most, if any does."""
    size = LARGEST
    while size > SMALLEST and sum(stored_bytes(count, size) for count in inputs) > limit:
        size //= 2
    return size


def stored_bytes(inputs: int, size: int) -> int:
    size = min(size, inputs)
    return ceil(inputs / size) * size * size * 4


def features(x: Any) -> Tensor:
    """What a Linear multiplies: of a sparse tensor, as Trellis2's Linears take, its features."""
    found: Tensor = x if isinstance(x, Tensor) else x.feats
    return found
