"""Scales in the bytes that they were made of, and as the float32 numbers that they stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from .formats import inner_scale, power_of_two
from .weight import QuantizedWeight


def compact_scale(weight: QuantizedWeight) -> Tensor:
    """The scales in the bytes that they were made of: e4m3 under an outer scale, e8m0 where they are powers of two."""
    if weight.scale.dtype.itemsize == 1:
        return weight.scale
    if weight.outer is not None and (weight.format.outer_maximum or weight.format.grid):
        return inner_scale(weight.scale, weight.outer)
    return weight.scale.to(torch.float8_e8m0fnu) if weight.format.scale_of is power_of_two else weight.scale
