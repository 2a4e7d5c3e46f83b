"""What torch, comfy-kitchen and cuBLASLt ask of the operands of block-scaled products, by float32 arithmetic."""

from __future__ import annotations

import comfy_kitchen as ck
import torch
import torch.nn.functional as F
from torch import Tensor


def up(count: int, step: int) -> int:
    return -(-count // step) * step


def fits(bias: Tensor | None, outputs: int, dtype: torch.dtype) -> Tensor | float:
    assert bias is None or (bias.shape == (outputs,) and bias.dtype == dtype), "one of the output's dtype, or none"
    return 0.0 if bias is None else bias.float()


def nvfp4_as_cublas(a, b, outer_a, outer_b, scale_a, scale_b, bias=None, out_dtype=None, alpha=None) -> Tensor:
    """ck.scaled_mm_nvfp4: rows of whole 16 bytes, scales in tiles of 128 x 4 blocks.

    Its CUDA kernel multiplies by alpha, its eager one by both outer scales.
    """
    if alpha is not None:
        assert alpha.dtype == torch.float32 and alpha.numel() == 1 and alpha.is_contiguous()
        torch.testing.assert_close(alpha, outer_a * outer_b.reshape(()), rtol=1e-6, atol=0)
    for codes, scale in ((a, scale_a), (b, scale_b)):
        assert codes.dtype == torch.uint8 and codes.is_contiguous() and codes.shape[1] % 16 == 0
        assert scale.dtype == torch.float8_e4m3fn and scale.is_contiguous()
        assert scale.shape == (up(len(codes), 128), up(codes.shape[1] // 8, 4))
    assert len(b) % 8 == 0
    x, w = (ck.dequantize_nvfp4(*parts, torch.float32) for parts in ((a, outer_a, scale_a), (b, outer_b, scale_b)))
    return (x @ w.T + fits(bias, len(b), out_dtype)).to(out_dtype)


def mxfp8_as_cublas(a, b, scale_a, scale_b, bias=None, out_dtype=None) -> Tensor:
    """ck.scaled_mm_mxfp8: whole blocks of 32, scales in tiles of 128 x 4 blocks."""
    for codes, scale in ((a, scale_a), (b, scale_b)):
        assert codes.dtype == torch.float8_e4m3fn and codes.is_contiguous() and codes.shape[1] % 32 == 0
        assert scale.dtype == torch.float8_e8m0fnu and scale.is_contiguous()
        assert scale.shape == (up(len(codes), 128), up(codes.shape[1] // 32, 4))
    assert len(b) % 16 == 0
    x, w = (ck.dequantize_mxfp8(*parts, torch.float32) for parts in ((a, scale_a), (b, scale_b)))
    return (x @ w.T + fits(bias, len(b), out_dtype)).to(out_dtype)


def blocks_as_cublas(x, codes, x_scale, x_recipe, scale, recipe, *, output_dtype) -> Tensor:
    """F.scaled_mm of runs of 128 by blocks of 128 x 128, as torch checks it and cuBLASLt wants tokens: by fours."""
    (m, k), n = x.shape, codes.shape[1]
    four = up(k // 128, 4)
    assert (x_recipe, recipe) == (F.ScalingType.BlockWise1x128, F.ScalingType.BlockWise128x128)
    assert m % 4 == 0 and k % 128 == 0 and n % 128 == 0 and codes.t().is_contiguous() and output_dtype == torch.bfloat16
    assert x_scale.shape == (m, k // 128) and x_scale.stride() in {(1, m), (1, 1) if k == 128 else (1, m)}
    assert scale.shape == (four, n // 128) and scale.stride() == (1, four)
    wide = x_scale.repeat_interleave(128, 1)
    tall = scale[: k // 128].repeat_interleave(128, 0).repeat_interleave(128, 1)
    return ((x.float() * wide) @ (codes.float() * tall)).to(output_dtype)
