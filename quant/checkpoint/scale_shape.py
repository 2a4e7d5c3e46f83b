"""Which granularity a scale's shape means for a weight's shape; every reading that fits, never a guess."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from torch import Tensor

from ..weights.granularity import Granularity, PerBlock, PerGroup, PerRow, PerTensor

Shape = tuple[int, ...]
BLOCKS = (128, 64, 32, 256)
GROUPS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Fit:
    """A reading of a scale for a stored matrix ``[rows, cols]``.

    flip: the scale lies over the transpose of the stored matrix; shards: equal parts of out with one scale each.
    """

    granularity: Granularity
    flip: bool = False
    shards: int = 0

    def grid(self, scale: Tensor, stored: tuple[int, int]) -> Tensor:
        """The scale as a 2-D grid over the stored matrix, one element for each tile."""
        if self.shards:
            scale = scale.repeat_interleave(stored[0] // self.shards)
        rows, cols = stored[::-1] if self.flip else stored
        shape = self.granularity.scale_shape((rows, cols)) or (1, 1)
        grid = scale.reshape(shape)
        return grid.T if self.flip else grid

    def tile(self, stored: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the stored matrix that share one scale."""
        rows, cols = stored[::-1] if self.flip else stored
        tile = tile_of(self.granularity, rows, cols)
        return (tile[1], tile[0]) if self.flip else tile


def tile_of(granularity: Granularity, rows: int, cols: int) -> tuple[int, int]:
    if isinstance(granularity, PerBlock):
        return granularity.rows, granularity.cols
    return (1, cols) if isinstance(granularity, PerRow) else (rows, cols)


def fits(scale: Shape, stored: tuple[int, int], hint: Mapping[str, Any] | None = None) -> tuple[Fit, ...]:
    """Every reading of a scale's shape for a stored weight ``[rows, cols]``; hint: block sizes a config names."""
    if prod(scale) == 1:
        return (Fit(PerTensor()),)
    scale = squeezed(scale)
    if len(scale) == 2 and scale[0] == 1:
        # a row vector is the scale of a transposed weight; of an upright one only where nothing else fits
        over = [Fit(PerRow(), flip) for flip, side in ((True, stored[1]), (False, stored[0])) if scale[1] == side]
        return tuple(over) or tuple(readings(scale, stored, hint or {}))
    return tuple(readings(scale, stored, hint or {}))


def readings(scale: Shape, stored: tuple[int, int], hint: Mapping[str, Any]) -> Iterator[Fit]:
    for flip in (False, True):
        rows, cols = stored[::-1] if flip else stored
        granularity = match(scale, rows, cols, hint)
        if granularity is not None:
            yield Fit(granularity, flip)
    if len(scale) == 1 and equal_shards(scale[0], *stored):
        yield Fit(PerRow(), shards=scale[0])


def squeezed(scale: Shape) -> Shape:
    """Without the trailing ones of `[out, blocks, 1]` and `[out, 1, 1, 1]`, down to two dimensions."""
    while len(scale) > 2 and scale[-1] == 1:
        scale = scale[:-1]
    return scale


def match(scale: Shape, rows: int, cols: int, hint: Mapping[str, Any]) -> Granularity | None:
    """What a file's scale means by its shape: the granularity of a weight ``[rows, cols]``, None for none."""
    if scale in ((rows,), (rows, 1)):
        return PerRow()
    if len(scale) != 2:
        return None
    named = [PerBlock(*block) for block in hinted(hint)]
    known = [PerGroup(1, g) for g in GROUPS] + [PerBlock(b, b) for b in BLOCKS]
    even = [PerGroup(1, cols // scale[1])] if cols % scale[1] == 0 else []
    return next((g for g in named + known + even if g.scale_shape((rows, cols)) == scale), None)


def hinted(hint: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Block sizes named by a config's weight_block_size, or a marker's group_size."""
    block, group = hint.get("weight_block_size"), hint.get("group_size")
    if isinstance(block, list) and len(block) == 2 and all(isinstance(b, int) and b > 0 for b in block):
        return [(block[0], block[1])]
    return [(group, group)] if isinstance(group, int) and group > 0 else []


def equal_shards(count: int, rows: int, cols: int) -> bool:
    """Whether rows are that many shards surely of equal size: q, k, v of one width, gate and up."""
    return (count == 3 and rows == 3 * cols) or (count == 2 and rows % 2 == 0)


def matrix(weight: Shape, scale: Shape) -> tuple[tuple[int, int], Shape]:
    """A weight of any rank as ``[rows, cols]`` with the scale's shape for it: convolutions, stacked experts."""
    # experts of one input there are not: that is a kernel of one pixel, its scales in groups
    stacked = len(weight) == len(scale) == 3 and scale[1] != 1 and weight[2] != 1
    lead = 2 if stacked else 1
    rows, cols = prod(weight[:lead]), prod(weight[lead:])
    return (rows, cols), (prod(scale[:2]), scale[2]) if stacked else scale


def padded(size: int, multiple: int) -> int:
    return ceil(size / multiple) * multiple
