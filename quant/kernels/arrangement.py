"""Weights as kernels read them, where that is not how they are stored: scales in another order, codes filled up.

Made when a kernel is chosen and held with the weight, so that they move, are counted and are freed with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.compact import compact_scale
from ..weights.native import in_tiles, outer_of
from ..weights.packing import padded, up
from ..weights.weight import QuantizedWeight

# A part of a weight for a kernel on device, None where it is as stored; its scales are in the bytes that hold them
Arrange = Callable[[QuantizedWeight, torch.device], "Tensor | None"]
# What rows and columns of a weight are filled up to multiples of; of NVFP4's columns cuBLASLt wants 16 bytes
BLOCK_STEP, MX_STEP, NV_STEP = (128, 128), (32, 32), (16, 32)
# of float8's both sides on a GPU, which are 16 bytes, and of the scales in a column of blocks
GEMM_STEP, COLUMN_STEP = 16, 4
TINY = torch.finfo(torch.float32).tiny


class Arrangement(NamedTuple):
    """How a kernel reads the parts of a weight, by the names of Arranged; None: as they are stored."""

    arranged: Arrange | None = None
    filled: Arrange | None = None
    given: Arrange | None = None

    def of(self, weight: QuantizedWeight, device: torch.device) -> dict[str, Any]:
        """Name -> part, of those that are not as the weight is stored."""
        stored = compacted(weight)
        found = {name: make(stored, device) for name, make in self._asdict().items() if make}
        return {name: part for name, part in found.items() if part is not None}


def compacted(weight: QuantizedWeight) -> QuantizedWeight:
    """The same with its scales in the bytes that they were made of."""
    return replace(weight, scale=compact_scale(weight))


##### In a forward: as held, made now where they are not, or not for this device


def arranged(weight: QuantizedWeight, arrange: Arrange) -> Tensor:
    """The weight's scales for a kernel."""
    found = weight.arranged
    if found is None:
        found = arrange(compacted(weight), weight.codes.device)
    assert found is not None
    return found


def filled(weight: QuantizedWeight, rows: int, columns: int) -> Tensor:
    """The weight's codes with zeros up to multiples of rows and columns as they are stored."""
    return padded(weight.codes if weight.filled is None else weight.filled, rows, columns)


##### Scales


def alignment(device: torch.device) -> int:
    """What ``in`` and ``out`` must be multiples of: cuBLASLt and hipBLASLt want 16 bytes, a CPU does not care."""
    return 1 if device.type == "cpu" else GEMM_STEP


def row_scales(weight: QuantizedWeight, device: torch.device) -> Tensor | None:
    """``[1, out]`` float32, out filled up as the codes are; None of scales that are one an output so far."""
    outputs, count = weight.shape[0], up(weight.shape[0], alignment(device))
    if weight.scale.numel() != outputs:
        return repeated(weight.scale, count)
    return None if count == outputs else F.pad(weight.scale.reshape(1, -1), (0, count - outputs))


def repeated(scale: Tensor, count: int) -> Tensor:
    """One scale for all, once an output: ``[1, count]`` float32."""
    return scale.float().reshape(1, 1).repeat(1, count)


def block_columns(weight: QuantizedWeight, device: torch.device) -> Tensor:
    """Those of 128 x 128 one column after another, each filled up to a multiple of COLUMN_STEP."""
    scale = weight.scale.float()
    return F.pad(scale, (0, -scale.shape[1] % COLUMN_STEP)).contiguous().t()


def mx_tiles(weight: QuantizedWeight, device: torch.device) -> Tensor:
    """Powers of two, of rows filled up as the weight is, in cuBLAS tiles."""
    return in_tiles(padded(weight.scale.view(torch.uint8), MX_STEP[0], 1)).view(torch.float8_e8m0fnu)


def nv_tiles(weight: QuantizedWeight, device: torch.device) -> Tensor:
    """float8_e4m3fn block scales, of rows and columns filled up as the weight is, in cuBLAS tiles."""
    filled_up = padded(weight.scale.view(torch.uint8), NV_STEP[0], NV_STEP[1] // 16)
    return in_tiles(filled_up).view(torch.float8_e4m3fn)


##### Codes


def filled_up(codes: Tensor, rows: int, columns: int) -> Tensor | None:
    found = padded(codes, rows, columns)
    return None if found is codes else found


def float8_codes(weight: QuantizedWeight, device: torch.device) -> Tensor | None:
    return filled_up(weight.codes, alignment(device), alignment(device))


def int8_codes(weight: QuantizedWeight, device: torch.device) -> Tensor | None:
    return filled_up(weight.codes, *int8_step(device))


def int8_step(device: torch.device) -> tuple[int, int]:
    """cuBLASLt wants multiples of 8; torch's sums of a single product are wrong on a CPU."""
    return (1, 4) if device.type == "cpu" else (16, 16)


def block_codes(weight: QuantizedWeight, device: torch.device) -> Tensor | None:
    return filled_up(weight.codes, *BLOCK_STEP)


def mx_codes(weight: QuantizedWeight, device: torch.device) -> Tensor | None:
    return filled_up(weight.codes, *MX_STEP)


def nv_codes(weight: QuantizedWeight, device: torch.device) -> Tensor | None:
    return filled_up(weight.codes, NV_STEP[0], NV_STEP[1] // 2)


##### What activations are scaled by


def nv_divisors(weight: QuantizedWeight, device: torch.device) -> Tensor:
    """``[2, 2]`` float32: what amax of NVFP4 activations is divided by, and what is added so that it is not 0.

    First for both outer scales in one, by which the product is multiplied, then for that of the activations.
    """
    outer = outer_of(weight).float().reshape(1)
    both, largest = torch.cat((outer, torch.ones_like(outer))), weight.format.outer_maximum * weight.format.maximum
    return torch.stack((largest / both, both * TINY))


TENSOR = Arrangement(filled=float8_codes)
ROWS = Arrangement(row_scales, float8_codes)
BLOCKS = Arrangement(block_columns, block_codes)
MX = Arrangement(mx_tiles, mx_codes)
NV = Arrangement(nv_tiles, nv_codes, nv_divisors)
INT8 = Arrangement(row_scales, int8_codes)
