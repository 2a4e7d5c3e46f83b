"""Every kernel at the shapes of real models, on the GPU that is here: proven, captured, compiled, and counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from products import product, sqnr
from scaled_fp8 import quant
from scaled_fp8.quant.kernels.diagnosis import typical
from scaled_fp8.quant.kernels.probe import added_error, probe_error
from scaled_fp8.quant.kernels.proof import prove, quantizer_of
from scaled_fp8.quant.kernels.registry import KERNELS
from torch import Tensor, nn

# FLUX.2 klein's projection, Wan's first of an MLP, and one that no step of a kernel divides
SHAPES = ((3072, 3072), (13824, 5120), (3000, 1544))
FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8", "int8_convrot", "mxfp8", "nvfp4")
TOKENS = (1, 16, 77, 1024)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_kernel_is_right_at_real_shapes(kernel, shape, dtype, device):
    layer = typical(kernel, device, dtype)
    if reason := kernel.refuses(layer):
        pytest.skip(f"{kernel.name} {reason}")
    inputs = shape[1] if not layer.rotation else -(-shape[1] // layer.rotation) * layer.rotation
    layer = replace(layer, shape=(shape[0], inputs))
    if not (proof := prove(kernel, layer)).works:
        pytest.skip(f"{kernel.name} {proof.reason}")
    exact = next((other for other in KERNELS if other.name == kernel.exact), None)
    quantizer = quantizer_of(kernel, layer)
    error = added_error(kernel, exact, layer, quantizer) if exact else probe_error(kernel, layer, quantizer)
    assert error <= kernel.bound


##### A layer as it is used


def layer_of(format: str, device: torch.device, compute: str = "auto") -> tuple[nn.Module, quant.QuantizedWeight]:
    torch.manual_seed(0)
    linear = nn.Linear(1024, 1536, device=device, dtype=torch.bfloat16).requires_grad_(False)
    weight = quant.quantize(linear.weight.detach().float(), quant.FORMATS[format])
    model = nn.Sequential(linear)
    quant.patch_linears(model, {"0": weight}, compute=compute)
    return model, weight


def truth(model: nn.Module, weight: quant.QuantizedWeight, x: Tensor) -> Tensor:
    return product(x.cpu(), weight.to("cpu"), model[0].bias.cpu())


def made(tokens: int, device: torch.device, seed: int = 0) -> Tensor:
    return torch.randn(tokens, 1024, generator=torch.Generator().manual_seed(seed)).to(device, torch.bfloat16)


# 4 bits of weight and activation leave less
LEAST = {"nvfp4": 15.0}


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_patched_layer_keeps_its_signal(format, tokens, device):
    model, weight = layer_of(format, device)
    x = made(tokens, device)
    with torch.no_grad():
        assert sqnr(model(x).float().cpu(), truth(model, weight, x)) >= LEAST.get(format, 26.0)


@pytest.mark.parametrize("format", FORMATS)
def test_a_forward_is_captured_in_a_graph(format, device):
    """Replayed on other activations it gives what an eager forward gives: codes of the first are not baked in."""
    model, _ = layer_of(format, device)
    x = made(64, device)
    with torch.no_grad():
        for _ in range(3):
            model(x)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
        for seed in (1, 2):
            x.copy_(made(64, device, seed))
            graph.replay()
            torch.cuda.synchronize(device)
            torch.testing.assert_close(y, model(x.clone()))


@pytest.mark.parametrize("format", FORMATS)
def test_a_forward_waits_for_nothing(format, device):
    model, _ = layer_of(format, device)
    x = made(64, device)
    with torch.no_grad():
        model(x)
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(x)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("scale", ("dynamic", "static"))
@pytest.mark.parametrize("granularity", (quant.PerTensor(), quant.PerRow()), ids=str)
@pytest.mark.parametrize("format", ("float8_e4m3fn", "float8_e5m2"))
def test_an_fp8_layer_launches_two_kernels(format, granularity, scale, device):
    """One quantizes, one multiplies, whatever scales the file has."""
    linear = nn.Linear(1024, 1536, device=device, dtype=torch.bfloat16).requires_grad_(False)
    weight = quant.quantize(linear.weight.detach().float(), quant.FORMATS[format], granularity)
    weight = replace(weight, input_scale=torch.tensor(0.01, device=device))
    model = nn.Sequential(linear)
    handle = quant.patch_linears(model, {"0": weight}, compute="scaled_mm", activation_scale=scale)
    assert handle.report().rows[0].activation == scale
    x = made(1024, device)
    with torch.no_grad():
        model(x)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            model(x.clone())
            torch.cuda.synchronize(device)
    launched = [event.name for event in profile.events() if "memcpy" not in event.name.lower()]
    # the copy of x is a kernel of its own
    assert len(launched) <= 3, launched


@pytest.mark.parametrize("format", ("float8_e4m3fn", "int8_convrot"))
def test_a_compiled_layer_is_the_eager_one(format, device):
    model, weight = layer_of(format, device)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, dynamic=True)
        for tokens in (64, 300):
            x = made(tokens, device)
            assert sqnr(compiled(x).float().cpu(), truth(model, weight, x)) >= 26
    torch.compiler.reset()


def test_siblings_on_another_stream_do_not_share(device):
    model, _ = layer_of("float8_e4m3fn", device)
    x = made(256, device)
    with torch.no_grad():
        want, stream = model(x), torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            got = model(x)
        stream.synchronize()
    assert torch.equal(got, want)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU or none")
def test_a_layer_runs_on_the_second_gpu_too():
    model, weight = layer_of("float8_e4m3fn", torch.device("cuda", 0))
    second = torch.device("cuda", 1)
    x = made(64, second)
    with torch.no_grad():
        y = model.to(second)(x)
    assert y.device == second
    assert sqnr(y.float().cpu(), truth(model, weight, x)) >= 26
