"""Every kernel on 200 random shapes: no more noise than its scheme has when it is computed in float32."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from products import DTYPES, E4M3, weight_for
from scaled_fp8.quant.kernels.diagnosis import typical
from scaled_fp8.quant.kernels.probe import as_multiplied
from scaled_fp8.quant.kernels.proof import prove
from scaled_fp8.quant.kernels.registry import KERNELS, Kernel
from scaled_fp8.quant.kernels.rules import Workload
from torch import Tensor

CPU = torch.device("cpu")
CHANCE = random.Random(4)
SHAPES = [(CHANCE.randint(4, 40), CHANCE.randint(1, 96), CHANCE.randint(1, 160)) for _ in range(200)]


def noises(kernel: Kernel, layer: Workload, shape: tuple[int, int, int]) -> Tensor:
    """Energy of the signal, of the kernel's noise and of its scheme's in float32, all against unquantized values."""
    tokens, outputs, inputs = shape
    # a rotation takes whole groups
    inputs = inputs + -inputs % 16 if layer.rotation else inputs
    rng = torch.Generator().manual_seed(tokens * outputs * inputs)
    x = (torch.randn(tokens, inputs, generator=rng) * torch.logspace(1, -1, tokens)[:, None]).to(layer.dtype)
    values, bias = torch.randn(outputs, inputs, generator=rng), torch.randn(outputs, generator=rng).to(layer.dtype)
    weight = weight_for(layer, values)
    scale = x.float().abs().amax() / E4M3.maximum if layer.activation == "static" else None
    truth = x.float() @ values.T + bias.float()
    scheme = as_multiplied(kernel, x, scale, weight.rotation) @ weight.dequantize().T + bias.float()
    got = kernel.run(x, weight, bias, scale).float()
    return torch.stack([t.double().square().sum() for t in (truth, got - truth, scheme - truth)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_within_half_a_decibel_of_the_scheme(kernel, dtype):
    layer = typical(kernel, CPU, dtype)
    if reason := kernel.refuses(layer):
        pytest.skip(f"{kernel.name} {reason}")
    if not (proof := prove(kernel, layer)).works:
        pytest.skip(f"{kernel.name} {proof.reason}")
    with torch.no_grad():
        energies = torch.stack([noises(kernel, replace(layer, dtype=dtype), shape) for shape in SHAPES])
    signal, noise, expected = energies.unbind(1)
    # where the scheme is exact, as for one input, what is left is the rounding of the output
    rounding = signal * torch.finfo(dtype).eps ** 2
    more = 10 * torch.log10(noise / (expected + rounding))
    assert (more <= 0.5).all(), f"{float(more.max()):.2f} dB more noise"
