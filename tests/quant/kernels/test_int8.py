"""FP8 weights run as INT8: what it costs, which layers, on which devices, and what the report says."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from products import E4M3, SPREADS, activation, product, quantized, sqnr, weight
from scaled_fp8 import quant
from scaled_fp8.quant.kernels import int8, plan
from scaled_fp8.quant.kernels.mode import Mode
from scaled_fp8.quant.kernels.plan import choose_foreseen, choose_held
from scaled_fp8.quant.kernels.proof_cache import Proof
from torch import nn

CPU = torch.device("cpu")
FLOAT8 = [format for format in quant.FORMATS.values() if format.name.startswith("float8")]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)) * 0.02


def with_outliers(*shape: int) -> torch.Tensor:
    values = normal(*shape)
    values[:, 7] *= 60
    return values


def held(values: torch.Tensor, compute: str = "int8", dtype: torch.dtype = torch.bfloat16):
    return choose_held(quantized(values), CPU, dtype, Mode(compute))


@pytest.fixture
def no_fp8_gemm(monkeypatch):
    """A device like sm_75 to sm_86: _scaled_mm raises, _int_mm is right."""
    real = plan.prove
    lost = Proof(None, "raises on cuda: RuntimeError: needs sm_89")
    monkeypatch.setattr(plan, "prove", lambda k, layer: lost if k.family == "scaled_mm" else real(k, layer))


def test_a_plain_weight_needs_no_rotation():
    found, choice = held(normal(64, 256))
    assert (found.format.name, found.rotation, choice.kernel.name) == ("int8", 0, "scaled_mm int8")
    assert choice.reason.startswith("FP8 file, run as INT8, 0.")


def test_a_weight_with_outliers_is_rotated():
    found, choice = held(with_outliers(64, 256))
    assert (found.format.name, found.rotation, choice.kernel.name) == ("int8_convrot", 256, "scaled_mm int8 convrot")
    assert "FP8 file, run as INT8 with ConvRot" in choice.reason


def test_what_would_lose_too_much_is_upcast_and_told(monkeypatch):
    monkeypatch.setattr(int8, "MOST_LOST", 0.01)
    found, choice = held(normal(64, 256))
    assert (found.format, choice.kernel.family) == (E4M3, "upcast")
    for name in ("int8", "int8_convrot"):
        assert re.search(rf"{name} would lose 0\.\d dB of the weight, more than 0\.01", choice.reason)


@pytest.mark.parametrize(
    "granularity", (quant.PerTensor(), quant.PerRow(), quant.PerBlock(32, 32)), ids=lambda g: g.name
)
def test_the_cost_is_the_growth_of_the_noise(granularity):
    """Against the noise itself, which only a test has: the unquantized weight is not in a file."""
    values = normal(128, 256)
    fp8 = quantized(values, E4M3, granularity)
    candidate = quant.quantize(fp8.dequantize(), quant.FORMATS["int8"], quant.PerRow())
    lost = sqnr(fp8.dequantize(), values) - sqnr(candidate.dequantize(), values)
    assert int8.decibels_lost(fp8, fp8.dequantize(), candidate) == pytest.approx(lost, abs=0.15)


@pytest.mark.parametrize("format", FLOAT8, ids=lambda f: f.name)
def test_steps_are_the_distances_of_the_codes(format):
    codes = torch.arange(256, dtype=torch.uint8).view(format.dtype)
    values = codes.float()
    top = format.maximum
    sizes = values[torch.isfinite(values) & (values >= 0)].unique()
    steps = dict(zip(values.tolist(), int8.steps(codes).tolist(), strict=True))
    for size, larger in zip(sizes.tolist(), sizes[1:].tolist(), strict=False):
        assert size >= top or steps[size] == larger - size


@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32), ids=str)
def test_rotated_outputs_keep_28_db(spread, dtype):
    weight, choice = held(with_outliers(96, 512), dtype=dtype)
    x = activation(spread, 16, 512).to(dtype)
    assert sqnr(choice.kernel.run(x, weight, None, None), product(x, quantized(with_outliers(96, 512)))) >= 28


def test_auto_takes_int8_where_there_is_no_fp8_gemm(no_fp8_gemm):
    found, choice = held(normal(96, 1024), "auto")
    assert choice.kernel.family == "int8"
    assert "FP8 file, run as INT8" in choice.reason
    # without a rotation outlier channels would leave less than 28 dB
    assert found.rotation == 256


def test_auto_stays_with_fp8_where_the_output_would_suffer(no_fp8_gemm, monkeypatch):
    monkeypatch.setattr(int8, "LEAST_SIGNAL", 90.0)
    found, choice = held(normal(96, 512), "auto")
    assert (found.format, choice.kernel.family) == (E4M3, "upcast")
    assert "dB of the output for activations" in choice.reason


def test_auto_leaves_a_device_with_an_fp8_gemm_alone():
    found, choice = held(normal(96, 512), "auto")
    assert (found.format, choice.kernel.name) == (E4M3, "upcast by bits")


def test_without_an_int8_gemm_it_is_refused(monkeypatch):
    real = plan.prove
    lost = Proof(None, "raises on cpu: RuntimeError: lost")
    monkeypatch.setattr(plan, "prove", lambda k, layer: lost if k.family == "int8" else real(k, layer))
    _, choice = held(normal(64, 256))
    assert choice.kernel.family == "upcast"
    assert "raises on cpu: RuntimeError: lost" in choice.reason
    with pytest.raises(quant.Refused, match="compute 'int8' fits none of 1 layers: .*lost"):
        plan.require([choice], "int8")


def test_a_smoothed_weight_takes_its_smoothing_along():
    smooth = torch.linspace(0.5, 2, 256)
    weight = replace(quantized(normal(64, 256)), smooth=smooth)
    found, choice = choose_held(weight, CPU, torch.float32, Mode("int8"))
    x = activation(1.0, 8, 256)
    assert found.smooth is None
    assert sqnr(choice.kernel.run(x, found, None, None), x @ weight.dequantize().T) >= 28


def test_other_formats_are_left_as_they_are():
    weight = quant.quantize(normal(64, 256), quant.FORMATS["mxfp8"])
    found, choice = choose_held(weight, CPU, torch.float32, Mode("int8"))
    assert found is weight and choice.kernel.family in ("block", "upcast")


def test_a_module_runs_and_goes_back():
    linear = nn.Sequential(nn.Linear(256, 64)).bfloat16()
    before = linear[0].weight.data.clone()
    checkpoint = {"0": quantized(linear[0].weight.detach().float())}
    x = activation(1.0, 5, 256).bfloat16()
    want = product(x, checkpoint["0"], linear[0].bias.detach())
    handle = quant.patch_linears(linear, checkpoint, compute="int8")
    with torch.no_grad():
        assert sqnr(linear(x), want) >= 28
    assert "FP8 file, run as INT8" in handle.report().table()
    assert handle.report().rows[0].ran == {"scaled_mm int8": 1}
    assert not handle.report().rows[0].slow
    handle.restore()
    assert torch.equal(linear[0].weight, before)


def test_a_preview_says_that_the_weight_will_decide():
    choice = choose_foreseen(E4M3, quant.PerTensor(), (64, 256), CPU, torch.float32, "int8")
    assert choice.kernel.family == "int8"
    assert choice.reason.startswith("FP8 file, run as INT8 where that loses at most 0.7 dB")


def test_weights_of_every_granularity_and_format():
    for format in FLOAT8:
        for granularity in (quant.PerTensor(), quant.PerRow(), quant.PerBlock(32, 32)):
            fp8 = weight(64, 256, format, granularity)
            found, _ = choose_held(fp8, CPU, torch.float32, Mode("int8"))
            assert found.format.name.startswith("int8")
            assert sqnr(found.dequantize(), fp8.dequantize()) >= 35
