"""Scales of weights as kernels read them, where that is not how they are stored.

Made when a kernel is chosen and held with the weight, so that they move, are counted and are freed with it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.compact import compact_scale
from ..weights.native import in_tiles
from ..weights.packing import padded
from ..weights.weight import QuantizedWeight

# scales in the bytes that hold them and a weight's ``(out, in)`` -> as a kernel reads them, None where as they are
Arrange = Callable[[Tensor, tuple[int, int]], "Tensor | None"]
# What rows and columns of a weight are filled up to multiples of; of NVFP4's columns cuBLASLt wants 16 bytes
MX_STEP, NV_STEP = (32, 32), (16, 32)


def arranged(weight: QuantizedWeight, arrange: Arrange) -> Tensor:
    """The weight's scales for a kernel, made now where they are not held."""
    found = arrange(compact_scale(weight), weight.shape) if weight.arranged is None else weight.arranged
    assert found is not None
    return found


def row_scales(scale: Tensor, shape: tuple[int, int]) -> Tensor | None:
    """One scale for all, once an output; None of those that are one an output."""
    return None if scale.numel() == shape[0] else repeated(scale, shape)


def repeated(scale: Tensor, shape: tuple[int, int]) -> Tensor:
    """One scale for all, once an output: ``[1, out]`` float32."""
    return scale.float().reshape(1, 1).repeat(1, shape[0])


def block_columns(scale: Tensor, shape: tuple[int, int]) -> Tensor:
    """Those of 128 x 128 one column after another, each filled up to a multiple of four."""
    return F.pad(scale.float(), (0, -scale.shape[1] % 4)).contiguous().t()


def mx_tiles(scale: Tensor, shape: tuple[int, int]) -> Tensor:
    """Powers of two, of rows filled up as the weight is, in cuBLAS tiles."""
    return in_tiles(padded(scale.view(torch.uint8), MX_STEP[0], 1)).view(torch.float8_e8m0fnu)


def nv_tiles(scale: Tensor, shape: tuple[int, int]) -> Tensor:
    """float8_e4m3fn block scales, of rows and columns filled up as the weight is, in cuBLAS tiles."""
    return in_tiles(padded(scale.view(torch.uint8), NV_STEP[0], NV_STEP[1] // 16)).view(torch.float8_e4m3fn)
