"""Scaled Linears under torch.compile: one graph, not compiled anew for other numbers of tokens, the same outputs."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from products import DTYPES, E4M3, activation, quantized, sqnr
from scaled_fp8 import quant
from scaled_fp8.quant.kernels import speed
from scaled_fp8.quant.kernels.proof import prove
from scaled_fp8.quant.kernels.registry import KERNELS
from scaled_fp8.quant.kernels.rules import Workload
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

CPU = torch.device("cpu")
TOKENS = (2, 3, 5, 7, 16, 17, 33, 64, 100, 129)
# How a weight is stored, how it is computed and how its activations are scaled -> the kernel that this takes
WAYS = {
    "scaled_mm per-row": (E4M3, quant.PerRow(), "scaled_mm", "dynamic"),
    "scaled_mm per-tensor": (E4M3, quant.PerTensor(), "scaled_mm", "static"),
    "scaled_mm int8": (quant.FORMATS["int8"], quant.PerRow(), "scaled_mm", "dynamic"),
    "scaled_mm int8 convrot": (quant.FORMATS["int8_convrot"], quant.PerRow(), "scaled_mm", "dynamic"),
    "upcast by bits, blocks": (E4M3, quant.PerBlock(), "auto", "dynamic"),
    "upcast by bits": (E4M3, quant.PerRow(), "upcast", "dynamic"),
    "upcast": (quant.FORMATS["nvfp4"], quant.PerGroup(1, 16), "upcast", "dynamic"),
}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    forget()
    yield
    torch._dynamo.reset()
    forget()


def forget() -> None:
    """Every time that was taken in this process."""
    for function in vars(speed).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def patched(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Two Linears, scaled, on the kernel of that name."""
    format, granularity, compute, scaling = WAYS[name]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 32)).to(dtype)
    make = quantized if format == E4M3 else quant.quantize
    weights = {n: make(model[int(n)].weight.data.float(), format, granularity) for n in ("0", "2")}
    if scaling == "static":
        given = torch.tensor(4 / E4M3.maximum)
        weights = {n: quant.QuantizedWeight(**{**vars(w), "input_scale": given}) for n, w in weights.items()}
    fastest = name.partition(",")[0]
    with patch.object(speed, "ratio", lambda kernel, layer, tokens: 0.1 if kernel.name == fastest else 1.0):
        handle = quant.patch_linears(model, weights, compute=compute, activation_scale=scaling)
    kernels = {row.kernel for row in handle.report().rows}
    if name == "scaled_mm per-row" and kernels == {"scaled_mm emulated per-row"}:
        return model  # an older torch on a CPU
    assert kernels == {fastest}
    return model


@pytest.mark.parametrize("name", WAYS)
def test_no_graph_breaks(name):
    with torch.no_grad():
        found = torch._dynamo.explain(patched(name))(activation(1.0, 3, 5, 64))
    assert (found.graph_break_count, found.graph_count) == (0, 1)


@pytest.mark.parametrize("backend", ("eager", "aot_eager"))
@pytest.mark.parametrize("name", WAYS)
def test_one_graph_for_ten_numbers_of_tokens(name, backend):
    model, counter = patched(name), CompileCounterWithBackend(backend)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        compiled(activation(1.0, TOKENS[0], 64))
        graphs = counter.frame_count
        for tokens in TOKENS:
            x = activation(1.0, tokens, 64)
            # a code may differ by one where a quotient lies on a boundary
            assert sqnr(compiled(x), model(x)) >= (90 if backend == "eager" else 40)
    assert counter.frame_count == graphs >= 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compiled_in_every_dtype(dtype):
    model, x = patched("scaled_mm per-row", dtype), activation(1.0, 6, 64).to(dtype)
    with torch.no_grad():
        got = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        assert sqnr(got, model(x)) >= 40


def test_inductor_gives_the_same_codes():
    """Compiled C++: a code may differ by one where a quotient lies on a boundary."""
    model, x = patched("scaled_mm per-row"), activation(1.0, 6, 64)
    with torch.no_grad():
        got = torch.compile(model, fullgraph=True, dynamic=True)(x)
        assert sqnr(got, model(x)) >= 40


def test_every_kernel_of_a_cpu_is_compiled():
    """But for those that come after one that never fails here."""
    here = {k.name for k in KERNELS if any(works(k, way) for way in WAYS.values())}
    spare = {"scaled_mm emulated per-row", "scaled_mm per-tensor dynamic", "dequantized block", "upcast by table"}
    # in a graph it is what "upcast" is
    spare |= {"upcast compiled"}
    assert here - spare <= set(WAYS)


def works(kernel, way) -> bool:
    format, granularity, _, scaling = way
    layer = Workload(format, granularity, (48, 64), CPU, torch.float32, activation=scaling)
    return kernel.refuses(layer) is None and prove(kernel, layer).works
