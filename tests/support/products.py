"""Truths for Linears: float32 products, SQNR, and torchao's per-row Float8 arithmetic carried out in float32."""

from __future__ import annotations

from dataclasses import replace

import torch
from scaled_fp8 import quant
from scaled_fp8.quant.kernels.rules import Workload
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torchao.quantization.quant_primitives import (
    _choose_scale_float8,
    _dequantize_affine_float8,
    _quantize_affine_float8,
)

E4M3 = quant.FORMATS["float8_e4m3fn"]
# Tensors of no contents that claim to be on any device; asking one for a value is an exception. Constants may be real.
FAKE = FakeTensorMode(allow_non_fake_inputs=True)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# What activations are like: a standard deviation, or four channels 200 times the others
SPREADS: dict[str, float | str] = {"std 1e-3": 1e-3, "std 1": 1.0, "std 300": 300.0, "outlier channels": "outliers"}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quantized(values: Tensor, format: quant.Format = E4M3, granularity=None) -> quant.QuantizedWeight:
    """Values ``[out, in]`` in any granularity, whether or not anybody writes it."""
    shape, granularity = tuple(values.shape), granularity or quant.PerRow()
    top = torch.finfo(format.dtype).max
    scale = granularity.amax(values) / top
    codes = (values / granularity.expand(scale, shape)).clamp(-top, top).to(format.dtype)
    return quant.QuantizedWeight(format, codes, scale.reshape(granularity.scale_shape(shape)), granularity, shape)


def weight(outputs: int, inputs: int, format: quant.Format = E4M3, granularity=None) -> quant.QuantizedWeight:
    """A random weight with rows of unlike size."""
    values = torch.randn(outputs, inputs, generator=rng(1)) * torch.logspace(-2, 0, outputs)[:, None]
    return quantized(values, format, granularity)


def weight_for(layer: Workload, values: Tensor) -> quant.QuantizedWeight:
    """Values ``[out, in]`` in a layer's format and granularity."""
    make = quantized if layer.format == E4M3 else quant.quantize
    return make(values, layer.format, layer.granularity)


def activation(spread: float | str, *shape: int) -> Tensor:
    x = torch.randn(*shape, generator=rng(2))
    if spread != "outliers":
        return x * spread
    return torch.cat((x[..., :4] * 200, x[..., 4:]), -1)


def product(x: Tensor, w: quant.QuantizedWeight, bias: Tensor | None = None) -> Tensor:
    """``x @ W.T + bias`` in float32."""
    y = x.float() @ w.dequantize().T
    return y if bias is None else y + bias.float()


def sqnr(got: Tensor, want: Tensor) -> float:
    """Signal to quantization noise in dB."""
    got, want = got.detach(), want.detach()
    noise = (got.double() - want.double()).square().sum()
    return float("inf") if noise == 0 else float(10 * torch.log10(want.double().square().sum() / noise))


def torchao_rounded(x: Tensor) -> Tensor:
    """Activations ``[tokens, in]`` as torchao's dynamic per-row quantization rounds them, float32."""
    block = [1, x.shape[1]]
    x = x.float()
    scale = _choose_scale_float8(x, block, torch.float8_e4m3fn)
    codes = _quantize_affine_float8(x, scale, torch.float8_e4m3fn)
    return _dequantize_affine_float8(codes, scale, torch.float32)


def fake(tensor: Tensor, device: str) -> Tensor:
    meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return FakeTensor(FAKE, meta, torch.device(device))


def faked(w: quant.QuantizedWeight, device: str) -> quant.QuantizedWeight:
    return replace(w, **{name: fake(part, device) for name, part in vars(w).items() if isinstance(part, Tensor)})
