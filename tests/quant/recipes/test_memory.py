"""The estimate against what really is allocated."""

from __future__ import annotations

import json

import pytest
import torch
from live_bytes import LiveBytes
from scaled_fp8.quant.nn.component import quantize_component
from scaled_fp8.quant.nn.tensor import from_tensor
from scaled_fp8.quant.recipes import memory
from scaled_fp8.quant.recipes.memory import estimate_memory
from scaled_fp8.quant.recipes.methods import METHODS
from torch import Tensor, nn

NAMED = [name for name in METHODS if name != "auto"]
SHAPES = {"0": (1024, 512), "1": (512, 1024), "2": (520, 512)}
TOKENS = 1024


def model() -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(i, o, bias=False) for o, i in SHAPES.values())).to(torch.bfloat16)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


@pytest.mark.parametrize("granularity", ["per-tensor", "per-row", "block"])
@pytest.mark.parametrize("method", NAMED)
def test_resident_bytes_are_those_of_the_result(method: str, granularity: str) -> None:
    if method.startswith("int8") and granularity == "block" or (method, granularity) == ("int8-convrot", "per-tensor"):
        pytest.skip("not a granularity of this format")
    module = model()
    expected = estimate_memory(shapes(module), method, granularity=granularity)
    _, stats = quantize_component(module, method, granularity=granularity, backend="patched")
    assert expected.resident == stats.bytes_after
    assert expected.quantized == len(stats.quantized)


def test_a_model_of_tensors_is_estimated_by_its_names(digits: dict[str, Tensor]) -> None:
    found = estimate_memory({name: tuple(t.shape) for name, t in digits.items()}, "none")
    assert found.resident == sum(t.nbytes for t in digits.values())
    smaller = estimate_memory({name: tuple(t.shape) for name, t in digits.items()}, "fp8")
    assert smaller.quantized == 14 and smaller.resident < found.resident


@pytest.mark.parametrize("method", ["none", "fp8-dynamic", "fp8-weight-only", "int8"])
def test_activations_are_about_what_the_largest_layer_allocates(method: str) -> None:
    module = model()
    expected = estimate_memory(shapes(module), method, tokens=TOKENS).activations
    quantize_component(module, method, backend="patched")
    peaks = []
    with torch.no_grad():
        for layer in module:
            x = torch.randn(TOKENS, layer.weight.shape[1]).bfloat16()
            layer(x)
            with LiveBytes() as live:
                layer(x)
            peaks.append(live.peak)
    assert 0.6 * max(peaks) <= expected <= 1.6 * max(peaks)


def test_a_lora_is_about_what_merging_it_allocates() -> None:
    module = model()
    expected = estimate_memory(shapes(module), "fp8").lora
    quantize_component(module, "fp8", backend="patched")
    weight, down = module[0].weight, torch.randn(1024, 8)
    with torch.no_grad(), LiveBytes() as live:
        merged = from_tensor(weight).dequantize()
        merged += down @ torch.randn(8, 512)
        weight.requantize_from_float(merged, scale="recalculate", stochastic_rounding=3)
    assert 0.6 * live.peak <= expected <= 1.6 * live.peak


def test_more_tokens_need_more_and_a_wish_to_keep_needs_more() -> None:
    small, large = (estimate_memory(SHAPES, "fp8", tokens=n) for n in (64, 640))
    assert large.activations == 10 * small.activations
    assert estimate_memory(SHAPES, "fp8", keep="0").resident > small.resident


def test_fits_and_serialises() -> None:
    found = estimate_memory(SHAPES, "fp8")
    assert found.fits(found.peak) and not found.fits(found.peak - 1)
    told = json.loads(json.dumps(found.to_json()))
    assert told["peak"] == told["resident"] + max(told["activations"], told["lora"])


def test_it_reads_shapes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("empty", "zeros", "tensor"):
        monkeypatch.setattr(torch, name, None)
    assert memory.estimate_memory({"q": (1 << 20, 1 << 20)}, "fp8").weights == 1 << 40
