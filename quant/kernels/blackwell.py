"""Blackwell's formats, by comfy-kitchen's operators: activations by blocks of their own, and the product."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.native import outer_of
from ..weights.packing import corner
from ..weights.weight import QuantizedWeight
from .arrangement import MX_STEP, NV_STEP, arranged, compacted, filled, mx_tiles, nv_divisors, nv_tiles


def mx(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """The MXFP8 product: activations are quantized for it here."""
    import comfy_kitchen as ck

    codes, scale = ck.quantize_mxfp8(x, pad_32x=True)
    own, tiles = filled(weight, *MX_STEP), arranged(weight, mx_tiles)
    y = ck.scaled_mm_mxfp8(codes, own, scale, tiles, bias=lengthened(bias, own), out_dtype=x.dtype)
    return corner(y, x.shape[0], weight.shape[0]).contiguous()


def nv(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """The NVFP4 product: activations are quantized for it here."""
    import comfy_kitchen as ck

    (rows, step), (both, outer) = NV_STEP, nv_scales(x, weight)
    x = F.pad(x, (0, -x.shape[1] % step)) if x.shape[1] % step else x
    codes, scale = ck.quantize_nvfp4(x, outer, pad_16x=True)
    own, tiles = filled(weight, rows, step // 2), arranged(weight, nv_tiles)
    y = ck.scaled_mm_nvfp4(
        codes, own, outer, outer_of(weight), scale, tiles, bias=lengthened(bias, own), out_dtype=x.dtype, alpha=both
    )  # fmt: skip
    return corner(y, x.shape[0], weight.shape[0]).contiguous()


def nv_scales(x: Tensor, weight: QuantizedWeight) -> tuple[Tensor, ...]:
    """The scales above the block scales: of activations times weight, and of activations, whose block scales use all
    their range; each ``[]`` float32, by two launches."""
    amax = torch.linalg.vector_norm(x, float("inf"), dtype=torch.float32)
    divisors, least = weight.given if weight.given is not None else nv_divisors(compacted(weight), x.device)
    return torch.addcdiv(least, amax, divisors).unbind()


def lengthened(bias: Tensor | None, codes: Tensor) -> Tensor | None:
    """A bias with zeros for the rows that a weight's codes were filled up by."""
    missing = 0 if bias is None else len(codes) - len(bias)
    return F.pad(bias, (0, missing)) if bias is not None and missing else bias
