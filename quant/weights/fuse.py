"""Several weights of the same inputs as one, without requantizing: q, k, v to qkv."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..errors import Refused
from .granularity import Granularity, PerBlock, PerRow, PerTensor
from .weight import QuantizedWeight


def fuse_rows(parts: list[QuantizedWeight]) -> QuantizedWeight:
    """Weights ``[out_i, in]`` stacked to one ``[sum(out_i), in]`` with the same values.

    Scales per tensor and per row become per row, blocks stay blocks; Refused where formats, transforms or block
    grids do not go together.
    """
    first = parts[0]
    alike = {(part.format, part.rotation, part.transformed, part.shape[1]) for part in parts}
    if len(alike) > 1 or replace(first, rotation=0).transformed:
        raise Refused("Weights of unlike formats or transforms cannot be fused; dequantize them first.")
    shape = (sum(part.shape[0] for part in parts), first.shape[1])
    codes = torch.cat([part.codes for part in parts])
    granularity: Granularity = PerRow() if all(in_rows(part) for part in parts) else common_block(parts)
    scales = [row_scale(part) if in_rows(part) else part.scale for part in parts]
    return replace(first, codes=codes, scale=torch.cat(scales), granularity=granularity, shape=shape, input_scale=None)


def rows_of(weight: QuantizedWeight, start: int, stop: int) -> QuantizedWeight:
    """A weight taken out of a fused one: its rows [start, stop), of the same values; Refused inside a block."""
    if (start, stop) == (0, weight.shape[0]):
        return weight
    if not in_rows(weight) or weight.outer is not None:
        raise Refused("Weights with block scales cannot be taken apart by rows; dequantize them first.")
    scale = weight.scale if isinstance(weight.granularity, PerTensor) else weight.scale[start:stop]
    return replace(weight, codes=weight.codes[start:stop], scale=scale, shape=(stop - start, weight.shape[1]))


def in_rows(part: QuantizedWeight) -> bool:
    return isinstance(part.granularity, PerTensor | PerRow)


def row_scale(part: QuantizedWeight) -> torch.Tensor:
    return part.scale.reshape(-1, 1).expand(part.shape[0], 1)


def common_block(parts: list[QuantizedWeight]) -> PerBlock:
    """The one block grid of all parts, whose rows must end where a part ends."""
    grid = parts[0].granularity
    if isinstance(grid, PerBlock) and all(fits_grid(part, grid, part is parts[-1]) for part in parts):
        return grid
    raise Refused("Weights with block scales that do not end on a block's border cannot be fused; dequantize them.")


def fits_grid(part: QuantizedWeight, grid: PerBlock, last: bool) -> bool:
    return part.granularity == grid and (last or part.shape[0] % grid.rows == 0)
