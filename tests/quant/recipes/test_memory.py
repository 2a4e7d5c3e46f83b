"""The estimate against what really is allocated."""

from __future__ import annotations

import json

import pytest
import torch
from live_bytes import LiveBytes
from scaled_fp8.quant.kernels import scratch
from scaled_fp8.quant.kernels.registry import KERNELS
from scaled_fp8.quant.kernels.rules import Workload
from scaled_fp8.quant.nn.component import quantize_component
from scaled_fp8.quant.nn.tensor import from_tensor, is_scaled
from scaled_fp8.quant.recipes import memory
from scaled_fp8.quant.recipes.memory import FILLED, compare_methods, estimate_memory, estimates
from scaled_fp8.quant.recipes.methods import METHODS
from scaled_fp8.quant.weights.encode import quantize, unfit
from scaled_fp8.quant.weights.native import native_tensors
from torch import Tensor, nn

NAMED = [name for name in METHODS if name != "auto"]
SHAPES = {"0": (1024, 512), "1": (512, 1024), "2": (520, 512)}
TOKENS = 1024


# what no format fills up
ALIGNED = {"0": (1024, 512), "1": (512, 1024), "2": (384, 512)}


def model(shapes: dict[str, tuple[int, int]] = SHAPES) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(i, o, bias=False) for o, i in shapes.values())).to(torch.bfloat16)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


def arranged(module: nn.Module) -> int:
    """Bytes of what the kernel that was the fastest here reads in its own way."""
    found = (p._params.arrangement().values() for p in module.parameters() if is_scaled(p))
    return sum(part.nbytes for parts in found for part in parts if part is not None)


@pytest.mark.parametrize("shape", [(1024, 512), (520, 528), (50, 84), (3072, 3073)], ids=str)
@pytest.mark.parametrize("granularity", ["per-tensor", "per-row", "block"])
def test_what_a_gpus_kernels_hold_besides_is_counted(granularity: str, shape: tuple[int, int]) -> None:
    """The most that any kernel of a GPU does which takes such a weight."""
    found = estimate_memory({"0": shape}, "fp8-dynamic", granularity=granularity)
    assert found.peak == found.resident + found.arranged + max(found.activations, found.lora)
    chosen = METHODS["fp8-dynamic"].granularity(granularity)
    weight = quantize(torch.randn(shape), METHODS["fp8-dynamic"].format, chosen)
    layer = Workload(weight.format, chosen, shape, torch.device("cpu"), torch.bfloat16)
    able = [k for k in KERNELS if k.arrange and k.family == "scaled_mm" and "NVIDIA" in (k.refuses(layer) or "NVIDIA")]
    held = [kernel.arrange.of(weight, torch.device("cuda")) for kernel in able]
    most = max(sum(part.nbytes for part in parts.values()) for parts in held)
    assert found.arranged == most
    assert estimate_memory({"0": shape}, "fp8-weight-only", granularity=granularity).arranged == 0


@pytest.mark.parametrize("granularity", ["per-tensor", "per-row", "block"])
@pytest.mark.parametrize("method", NAMED)
def test_resident_bytes_are_those_of_the_result(method: str, granularity: str) -> None:
    if method.startswith("int8") and granularity == "block" or (method, granularity) == ("int8-convrot", "per-tensor"):
        pytest.skip("not a granularity of this format")
    module = model() if METHODS[method].format_name not in FILLED else model(ALIGNED)
    expected = estimate_memory(shapes(module), method, granularity=granularity)
    result, stats = quantize_component(module, method, granularity=granularity, backend="patched")
    assert expected.resident == stats.bytes_after - arranged(result)
    # what core computes in ComfyUI has nothing of this pack's
    own = METHODS[method].format_name == "float8_e4m3fn"
    assert arranged(result) <= expected.arranged if own else expected.arranged == 0
    assert expected.quantized == len(stats.quantized)


@pytest.mark.parametrize("shape", [(520, 528), (130, 80), (128, 64)], ids=str)
@pytest.mark.parametrize("method", [name for name in NAMED if name != "none"])
def test_a_layer_takes_what_comfyui_gets(method: str, shape: tuple[int, int]) -> None:
    format, granularity = METHODS[method].format, METHODS[method].granularity("per-row")
    if problem := unfit(format, granularity, shape):
        pytest.skip(problem)
    tensors = native_tensors(quantize(torch.randn(shape), format, granularity), "")
    held = {name: tensor.nbytes for name, tensor in tensors.items() if name != "comfy_quant"}
    found = estimate_memory({"0.weight": shape}, method)
    assert (found.weights, found.resident) == (held["weight"], sum(held.values()))


def test_four_bits_with_a_codebook_take_three_tenths() -> None:
    four, sixteen = (estimate_memory({"0": (4096, 4096)}, method).resident for method in ("int4", "none"))
    assert 0.27 <= four / sixteen <= 0.3


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
            # what a kernel keeps to use again is needed too, and these are no siblings of the activations before
            scratch.OWN.kept.clear()
            other = x.clone()
            with LiveBytes() as live:
                layer(other)
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
    assert told["peak"] == told["resident"] + told["arranged"] + max(told["activations"], told["lora"])


def test_the_table_has_a_line_a_method_and_says_what_fits() -> None:
    found = estimates(SHAPES)
    lines = compare_methods(found).splitlines()
    assert [line.split()[0] for line in lines[1:]] == NAMED
    assert [row.method for row in estimates(SHAPES, "vae")] == ["none", "int8"]
    free = sorted(row.peak for row in found)[3]
    told = compare_methods(found, free).splitlines()
    assert [line.endswith(" fits") for line in told[1:]] == [row.peak <= free for row in found]
    assert all(line.endswith(("fits", "too much")) for line in told[1:])


def test_estimates_keep_the_granularity_where_a_method_has_it() -> None:
    rows, tensors = ({row.method: row for row in estimates(SHAPES, granularity=g)} for g in ("per-row", "per-tensor"))
    assert rows["fp8-dynamic"].scales > tensors["fp8-dynamic"].scales == 4 * len(SHAPES)
    assert rows["int8-convrot"] == tensors["int8-convrot"]


def test_a_video_model_is_estimated_for_a_video() -> None:
    layers = {"time_projection.1.weight": (64, 64), "blocks.0.cross_attn.k.weight": (64, 64)}
    assert estimate_memory(layers, "none").activations == 52 * 30 * 21 * 64 * 2
    assert estimate_memory(SHAPES, "none", "encoder").activations == 512 * 1024 * 2


def test_it_reads_shapes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("empty", "zeros", "tensor"):
        monkeypatch.setattr(torch, name, None)
    assert memory.estimate_memory({"q": (1 << 20, 1 << 20)}, "fp8").weights == 1 << 40
