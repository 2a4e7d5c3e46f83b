"""What a probe measures: errors of kernels and of ways to quantize activations, against arithmetic on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from ..weights.encode import quantize
from ..weights.formats import FORMATS, Format, scale_from_amax
from ..weights.granularity import Granularity, PerGroup
from ..weights.weight import QuantizedWeight
from .activations import SCHEMES, TINY
from .quantizers import Quantizer
from .registry import Kernel, Workload

TOKENS = 32


def probe_error(kernel: Kernel, layer: Workload, quantizer: str) -> float:
    """Relative error of the worst token against float32 arithmetic on the CPU."""
    weight, x, bias = operands(layer)
    static = layer.activation == "static" and kernel.static
    scale = (x.abs().amax() / layer.format.maximum).float() if static else None
    there = [None if t is None else t.to(layer.device) for t in (x, bias, scale)]
    got = kernel.run(there[0], weight.to(layer.device), there[1], there[2], quantizer)  # type: ignore[arg-type]
    expected = as_multiplied(kernel, x, scale) @ weight.dequantize().T + bias.float()
    return float(((got.float().cpu() - expected).norm(dim=1) / expected.norm(dim=1)).max())


def as_multiplied(kernel: Kernel, x: Tensor, scale: Tensor | None) -> Tensor:
    """The activations as this kernel's GEMM sees them, float32."""
    if kernel.scheme is None:
        return x.float()
    if kernel.scheme not in SCHEMES:
        format = FORMATS[kernel.scheme]
        return quantize(x.float(), format, format.granularities[0]).dequantize()
    codes, x_scale = SCHEMES[kernel.scheme if scale is None else "float8 static"](x, scale)
    return codes.float()[:, : x.shape[1]] * per_element(x_scale, x)


def per_element(scale: Tensor, x: Tensor) -> Tensor:
    """A scale for each activation that it is for."""
    return scale.repeat_interleave(128, 1)[:, : x.shape[1]] if scale.shape[1] > 1 else scale


def operands(layer: Workload) -> tuple[QuantizedWeight, Tensor, Tensor]:
    """A seeded weight, activations and bias on the CPU, with rows of unlike size so that a wrong axis shows."""
    generator = torch.Generator().manual_seed(0)
    outputs, inputs = layer.shape
    tall = torch.logspace(-1, 1, outputs).unsqueeze(1)
    weight = torch.randn(outputs, inputs, generator=generator) * tall
    x = torch.randn(TOKENS, inputs, generator=generator) * torch.logspace(1, -1, TOKENS).unsqueeze(1)
    bias = torch.randn(outputs, generator=generator)
    return encoded_anyhow(weight, layer.format, layer.granularity), x.to(layer.dtype), bias.to(layer.dtype)


def encoded_anyhow(weight: Tensor, format: Format, granularity: Granularity) -> QuantizedWeight:
    """In any granularity, those that nobody writes included; for integer formats any byte is a code."""
    if isinstance(granularity, PerGroup) and format.scale_of is not scale_from_amax:
        return quantize(weight, format, granularity)
    shape = (weight.shape[0], weight.shape[1])
    scale = scale_from_amax(granularity.amax(weight), format.maximum)
    scaled = weight / granularity.expand(scale, shape)
    if format.dtype.is_floating_point:
        codes = scaled.clamp(-format.maximum, format.maximum).to(format.dtype)
    else:
        codes = (scaled * 16).to(torch.int32).to(torch.uint8).view(format.dtype)[:, :: format.per_byte].contiguous()
    return QuantizedWeight(format, codes, scale.reshape(granularity.scale_shape(shape)), granularity, shape)


##### Quantizers of activations


def code_error(quantizer: Quantizer, scheme: str, device: torch.device, dtype: torch.dtype) -> float:
    """The part of codes that differ; infinite where one differs by more than one code, or a scale does."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, 200, generator=generator) * torch.logspace(2, -2, TOKENS).unsqueeze(1)
    x[3] = 0
    x = x.to(dtype)
    given = torch.tensor([[0.02]]) if scheme == "float8 static" else None
    want, want_scale = SCHEMES[scheme](x, given)
    got, scale = quantizer.schemes()[scheme](x.to(device), None if given is None else given.to(device))
    # what zeros are scaled by is no matter
    if not torch.allclose(scale.float().cpu(), want_scale, rtol=1e-5, atol=10 * TINY) or got.dtype != want.dtype:
        return float("inf")
    apart = (ordinal(got.cpu()) - ordinal(want)).abs()
    return float("inf") if apart.max() > 1 else float((apart > 0).float().mean())


def ordinal(codes: Tensor) -> Tensor:
    """Codes as integers in the order of their values."""
    if codes.dtype == torch.int8:
        return codes.int()
    bits = codes.view(torch.uint8).int()
    return torch.where(bits > 127, 128 - bits, bits)
