"""Runs under TRITON_INTERPRET=1 and tells what Triton's kernels compute on a CPU, as one line of JSON."""

from __future__ import annotations

import json
import sys
import warnings

import torch
from products import quantized as exact
from scaled_fp8 import quant
from scaled_fp8.quant.kernels import probe, speed, triton_kernels
from scaled_fp8.quant.kernels.activations import SCHEMES
from scaled_fp8.quant.kernels.probe import ordinal
from scaled_fp8.quant.kernels.proof import prove_quantizer
from scaled_fp8.quant.kernels.quantizers import QUANTIZERS, by_triton
from torch import nn
from torch._dynamo.testing import CompileCounter

torch.set_num_threads(1)
warnings.simplefilter("ignore")
CPU = torch.device("cpu")
# an interpreter's times are none
speed.ratio = lambda kernel, layer, tokens: 1.0
# and it has no time: few activations are many for four parts
triton_kernels.PARTS, probe.MANY = 4, 12 * 3072
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.bfloat16, torch.float16, torch.float32)}
BYTES = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "int8")
GRANULARITIES = (quant.PerTensor(), quant.PerRow(), quant.PerBlock(16, 128), quant.PerGroup(1, 32))
rng = torch.Generator().manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=rng)


def quantized(scheme: str, dtype: torch.dtype) -> dict[str, object]:
    x = (randn(5, 200) * torch.logspace(-3, 3, 5)[:, None]).to(dtype)
    x[2] = 0
    given = torch.tensor([[0.01]]) if scheme.startswith("float8 static") else None
    (codes, scale), (want, want_scale) = by_triton()[scheme](x, given), SCHEMES[scheme](x, given)
    apart = (ordinal(codes) - ordinal(want)).abs().max()
    own = next(quantizer for quantizer in QUANTIZERS if quantizer.name == "Triton")
    proof = prove_quantizer(own, scheme, CPU, dtype)
    return {"most codes apart": int(apart), "scales equal": torch.equal(scale, want_scale), "works": proof.works}


def rounded() -> dict[str, object]:
    """All float8 values, what lies in the middle of two, and many more; a NaN."""
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    every = every[~every.isnan()].sort().values
    middles = (every[1:] + every[:-1]) / 2
    x = torch.cat((every, middles, torch.linspace(-0.02, 0.02, 501), torch.linspace(-500, 500, 1001), randn(200)))
    x = torch.cat((x, torch.tensor([float("nan")])))[None]
    codes, _ = triton_kernels.static(x, torch.ones(1, 1), 448.0)
    want = x.clamp(-448, 448).to(torch.float8_e4m3fn)
    same = codes.view(torch.uint8) == want.view(torch.uint8)
    return {"numbers": x.numel(), "apart": int((~same[0, :-1]).sum()), "nan": bool(codes.float()[0, -1].isnan())}


def decoded(name: str) -> bool:
    format = quant.FORMATS[name]
    codes = torch.arange(256, dtype=torch.uint8).view(16, 16).view(format.dtype)
    weight = quant.QuantizedWeight(format, codes, torch.tensor(0.5), quant.PerTensor(), (16, 16))
    got, want = triton_kernels.dequantize(weight, torch.float32), weight.dequantize()
    return bool(((got == want) | (got.isnan() & want.isnan())).all())


def products(format: str, granularity: quant.PerTensor, dtype: torch.dtype) -> dict[str, float]:
    make = quant.quantize if format == "int8" else exact
    weight = make(randn(40, 200) * 0.1, quant.FORMATS[format], granularity)
    x, bias = randn(3, 200).to(dtype), randn(40).to(dtype)
    truth, want = weight.dequantize(), x.float() @ weight.dequantize().T + bias.float()
    found = {"dequantized": error(triton_kernels.dequantize(weight, dtype), truth)}
    if triton_kernels.one_scale_a_step(weight):
        found["few rows"] = error(triton_kernels.few_rows(x, weight, bias), want)
    return found


def split() -> dict[str, object]:
    """Few rows of a wide weight, whose sums are cut in parts where a GPU has room for them; twice, with a bias."""
    told: dict[str, object] = {}
    for format, granularity in (
        ("float8_e4m3fn", quant.PerRow()),
        ("float8_e4m3fn", quant.PerBlock(16, 128)),
        ("int8", None),
    ):
        weight = (
            quant.quantize(randn(40, 1100), quant.FORMATS[format], granularity)
            if granularity is None
            else exact(randn(40, 1100), quant.FORMATS[format], granularity)
        )
        x, bias = randn(3, 1100), randn(40)
        want = x @ weight.dequantize().T + bias
        for room in (1, 2, 100):
            triton_kernels.multiprocessors = lambda device, room=room: room
            parts, span = triton_kernels.parts_of(3, 1100, CPU)
            got, again = (triton_kernels.few_rows(x, weight, bias) for _ in range(2))
            name = f"{format} {weight.granularity.name} {room}"
            told[name] = {"parts": parts, "span": span, "error": error(got, want), "again": torch.equal(got, again)}
    return told


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.float() - want).norm() / want.norm())


def planned() -> dict[str, object]:
    """A patched Linear as a GPU would run it, eager and in one graph for any number of rows."""
    linear = nn.Linear(64, 48)
    weight = quant.quantize(linear.weight.data, quant.FORMATS["float8_e4m3fn"], quant.PerRow())
    told: dict[str, object] = {}
    for name, compute in (("dynamic", "scaled_mm"), ("upcast", "upcast")):
        model = nn.Sequential(linear)
        handle = quant.patch_linears(model, {"0": weight}, compute=compute)
        choice = next(iter(handle.patches["0"].choices.values()))
        told[name] = [choice.kernel.name, choice.quantizer]
        if compute == "upcast":
            told |= compiled(model)
        handle.restore()
    return told


def compiled(model: nn.Module) -> dict[str, object]:
    counter, rows = CompileCounter(), [2, 3, 5, 16, 31, 32, 33, 40, 64, 100]
    inputs = [randn(count, 64) for count in rows]
    with torch.no_grad():
        graph = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
        equal = all(torch.allclose(graph(x), model(x)) for x in inputs)
    return {"compiled equal": equal, "graphs": counter.frame_count, "rows": rows}


report = {
    "quantized": {f"{s} {name}": quantized(s, dtype) for s in SCHEMES for name, dtype in DTYPES.items()},
    "rounded": rounded(),
    "decoded": {name: decoded(name) for name in BYTES},
    "products": {
        f"{format} {granularity.name} {name}": products(format, granularity, dtype)
        for format in BYTES
        for granularity in GRANULARITIES
        for name, dtype in DTYPES.items()
        if format != "int8" or granularity.name in ("per-tensor", "per-row")
    },
    "planned": planned(),
    "split": split(),
}
sys.stdout.write(json.dumps(report) + "\n")
