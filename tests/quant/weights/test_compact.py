"""Scales in the bytes that hold them stand for the same numbers."""

from __future__ import annotations

import pytest
import torch
from scaled_fp8 import quant
from scaled_fp8.quant.weights.compact import compact_scale
from scaled_fp8.quant.weights.weight import float_scale

STORED = {"nvfp4": torch.float8_e4m3fn, "int4": torch.float8_e4m3fn, "mxfp8": torch.float8_e8m0fnu}


@pytest.mark.parametrize("name", ("nvfp4", "int4", "mxfp8", "float8_e4m3fn", "int8"))
def test_compact_scales_are_the_same_numbers(name):
    values = torch.randn(48, 256, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 48)[:, None]
    weight = quant.quantize(values, quant.FORMATS[name])
    compact = compact_scale(weight)
    assert compact.dtype == STORED.get(name, torch.float32)
    torch.testing.assert_close(float_scale(compact, weight.outer), weight.scale, rtol=1e-6, atol=0)
    held = quant.QuantizedWeight(**{**vars(weight), "scale": compact})
    assert compact_scale(held) is compact
    torch.testing.assert_close(held.expanded().dequantize(), weight.dequantize(), rtol=1e-5, atol=1e-7)
