"""The resident tensor of a scaled weight: what a LoRA merge and ComfyUI's streaming do to it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from scaled_fp8 import quant
from scaled_fp8.quant.nn.tensor import from_tensor, to_tensor

FORMATS = ["float8_e4m3fn", "int8", "int8_convrot", "nvfp4", "mxfp8"]


def smoothed(weight: torch.Tensor, smooth: torch.Tensor, format: str) -> quant.QuantizedWeight:
    """The weight quantized as AWQ does: its columns divided by what will multiply the activations."""
    return dataclasses.replace(quant.quantize(weight / smooth, quant.FORMATS[format]), smooth=smooth)


@pytest.mark.parametrize("format", FORMATS)
def test_a_lora_on_a_streamed_smoothed_weight_is_merged_in_its_place(format):
    torch.manual_seed(0)
    weight, delta, smooth = torch.randn(64, 128), torch.randn(64, 128), torch.rand(128) * 4 + 0.25
    resident = to_tensor(smoothed(weight, smooth, format), torch.float32)
    merged = resident.requantize_from_float(resident.dequantize() + delta, scale="recalculate", stochastic_rounding=1)
    resident.copy_(merged)
    want = smoothed(weight + delta, smooth, format).dequantize()
    off = (resident.dequantize() - (weight + delta)).norm() / (weight + delta).norm()
    floor = (want - (weight + delta)).norm() / (weight + delta).norm()
    assert off <= 2.5 * floor  # two roundings, one of them stochastic
    assert torch.equal(from_tensor(resident).smooth, smooth)


def test_a_column_that_smoothing_silences_stays_silent():
    smooth = torch.ones(64).index_fill(0, torch.tensor([3]), 0.0)
    resident = to_tensor(smoothed(torch.randn(32, 64), smooth + (smooth == 0), "int8"), torch.float32)
    resident = to_tensor(dataclasses.replace(from_tensor(resident), smooth=smooth), torch.float32)
    merged = resident.requantize_from_float(resident.dequantize() + 1, scale="recalculate")
    assert merged.dequantize().isfinite().all()
    assert not merged.dequantize()[:, 3].any()


@pytest.mark.parametrize("name", ["mxfp8", "nvfp4", "int4"])
def test_block_scales_are_held_in_one_byte_each(name):
    weight = quant.quantize(torch.randn(96, 256), quant.FORMATS[name])
    tensor = to_tensor(weight, torch.bfloat16)
    assert tensor._params.scale.element_size() == 1
    assert torch.equal(from_tensor(tensor).scale, weight.scale)
    assert torch.equal(from_tensor(tensor).dequantize(), weight.dequantize())
