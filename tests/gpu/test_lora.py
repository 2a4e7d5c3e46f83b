"""A LoRA merged into a scaled weight on a GPU: quantized anew without waiting for the device."""

from __future__ import annotations

import pytest
import torch
from products import sqnr
from scaled_fp8 import quant
from scaled_fp8.quant.nn.tensor import from_tensor, to_tensor


@pytest.mark.parametrize("seed", (0, 7), ids=("nearest", "stochastic"))
@pytest.mark.parametrize("granularity", (quant.PerTensor(), quant.PerRow()), ids=str)
def test_a_merge_waits_for_nothing(granularity, seed, device):
    torch.manual_seed(0)
    values = torch.randn(3072, 1024, device=device)
    weight = quant.quantize(values, quant.FORMATS["float8_e4m3fn"], granularity)
    tensor, lora = to_tensor(weight, torch.bfloat16), torch.randn(3072, 1024, device=device) * 0.1
    merged = weight.dequantize() + lora
    tensor.requantize_from_float(merged, scale="recalculate", stochastic_rounding=seed)
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = tensor.requantize_from_float(merged, scale="recalculate", stochastic_rounding=seed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sqnr(from_tensor(found).dequantize().cpu(), merged.cpu()) >= 24
