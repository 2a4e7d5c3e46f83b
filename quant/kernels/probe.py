"""What a probe measures: errors of kernels and of ways to quantize activations, against arithmetic on the CPU."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..weights.encode import quantize
from ..weights.formats import Format, scale_from_amax
from ..weights.granularity import Granularity, PerGroup
from ..weights.rotation import rotate
from ..weights.weight import QuantizedWeight
from .activations import PER_TENSOR, SCHEMES, STATIC, TINY
from .quantizers import Quantizer
from .registry import Kernel
from .rules import Workload

# one, few, as many as a kernel for few rows takes, and more: GEMMs have tiles for 16, 32, 64, 256 and more rows
TOKENS = (1, 5, 32, 50, 200, 300)


def probe_error(kernel: Kernel, layer: Workload, quantizer: str) -> float:
    """Relative error of the worst token against float32 arithmetic on the CPU, of all TOKENS."""
    weight, x, bias = operands(layer)
    truth, there = weight.dequantize().T, weight.to(layer.device)

    def error(x: Tensor) -> float:
        multiplied = as_multiplied(kernel, x, static_scale_of(kernel, layer, x), layer.rotation)
        return worst_token(run_there(kernel, layer, quantizer, (x, bias), there), multiplied @ truth + bias.float())

    return max(error(x[:tokens]) for tokens in TOKENS)


def added_error(fast: Kernel, exact: Kernel, layer: Workload, quantizer: str) -> float:
    """What sums in fewer bits add: relative distance of the worst token's output from the exact kernel's."""
    weight, x, bias = operands(layer)
    there = weight.to(layer.device)
    return max(
        worst_token(*(run_there(k, layer, quantizer, (x[:tokens], bias), there) for k in (fast, exact)))
        for tokens in TOKENS
    )


def run_there(
    kernel: Kernel, layer: Workload, quantizer: str, given: tuple[Tensor, Tensor], weight: QuantizedWeight
) -> Tensor:
    """The output, float32 on the CPU."""
    x, bias = (tensor.to(layer.device) for tensor in given)
    scale, weight = static_scale_of(kernel, layer, given[0]), kernel.arranged(weight, layer.device)
    return kernel.run(x, weight, bias, None if scale is None else scale.to(x.device), quantizer).float().cpu()


def static_scale_of(kernel: Kernel, layer: Workload, x: Tensor) -> Tensor | None:
    static = layer.activation == "static" and kernel.static
    return (x.abs().amax() / layer.format.maximum).float() if static else None


def worst_token(got: Tensor, expected: Tensor) -> float:
    """The largest relative error of a row."""
    return float(((got - expected).norm(dim=1) / expected.norm(dim=1)).max())


def as_multiplied(kernel: Kernel, x: Tensor, scale: Tensor | None, rotation: int = 0) -> Tensor:
    """The activations as this kernel's GEMM sees them, float32."""
    if not kernel.rounds:
        return x.float()
    if rotation:
        # what is quantized is rotated, and rounded to the activations' dtype; the matrix is its own inverse
        return rotate(as_multiplied(kernel, rotate(x.float(), rotation).to(x.dtype), scale), rotation)
    if kernel.into is not None:
        return quantize(x.float(), kernel.into, kernel.into.granularities[0]).dequantize()
    codes, x_scale = SCHEMES[kernel.scheme if scale is None else kernel.static](x, scale)
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
    most = max(TOKENS)
    x = torch.randn(most, inputs, generator=generator) * torch.logspace(1, -1, most).unsqueeze(1)
    bias = torch.randn(outputs, generator=generator)
    held = encoded_anyhow(weight, layer.format, layer.granularity)
    return replace(held, rotation=layer.rotation), x.to(layer.dtype), bias.to(layer.dtype)


def encoded_anyhow(weight: Tensor, format: Format, granularity: Granularity) -> QuantizedWeight:
    """A probe's weight in any granularity, those that nobody writes too; for integer formats any byte is a code."""
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


# inputs of activations: less than one of a kernel's steps, widths of real models, each of which is a program of its own
# that is compiled now and not in a forward, and more than a program holds at once
WIDTHS = (200, 1536, 3072, 5120, 13824, 16400)
# activations of which one program has several parts, where all of them have one scale
MANY = 1400 * 3072


def code_error(quantizer: Quantizer, scheme: str, device: torch.device, dtype: torch.dtype) -> float:
    """The part of codes that differ; infinite where one differs by more than one code, or a scale does."""
    shapes = [(min(32, max(4, 2**15 // width)), width) for width in WIDTHS]
    shapes += [(MANY // 3072, 3072)] if scheme.startswith(PER_TENSOR) else []
    return max(codes_apart(quantizer, scheme, device, sample_of(*shape).to(dtype)) for shape in shapes)


def sample_of(tokens: int, width: int) -> Tensor:
    """Tokens of unlike size, one of them zero: ``[tokens, width]`` float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, width, generator=generator) * torch.logspace(2, -2, tokens).unsqueeze(1)
    x[3] = 0
    return x


def codes_apart(quantizer: Quantizer, scheme: str, device: torch.device, x: Tensor) -> float:
    """Share of codes in which a quantizer of activations is one apart from its scheme; infinity beyond that."""
    given = torch.tensor([[0.02]]) if scheme.startswith(STATIC) else None
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
