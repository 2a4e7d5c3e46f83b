"""quantize_component on plain torch modules: what it does, what it says, what it needs."""

from __future__ import annotations

import json

import pytest
import torch
from live_bytes import LiveBytes
from scaled_fp8 import quant
from scaled_fp8.quant import Refused
from scaled_fp8.quant.nn import backends
from scaled_fp8.quant.nn.backends import torchao, torchao_problem
from scaled_fp8.quant.nn.component import nbytes, quantize_component
from scaled_fp8.quant.nn.linear import ScaledLinear
from scaled_fp8.quant.nn.stats import Stats
from scaled_fp8.quant.nn.tensor import from_tensor, is_scaled
from scaled_fp8.quant.recipes import auto
from scaled_fp8.quant.recipes.methods import METHODS
from scaled_fp8.quant.weights.encode import quantize
from scaled_fp8.quant.weights.job import Search
from torch import Tensor, nn

# method -> bounds of the relative error of three layers' output
BOUNDS = {
    "fp8-dynamic": 0.08, "fp8-weight-only": 0.06, "int8": 0.02, "int8-convrot": 0.02, "int4": 0.15, "mxfp8": 0.08,
    "nvfp4": 0.25,
}  # fmt: skip


def transformer(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Layers to keep, to quantize, and one whose outputs are no multiple of 16."""
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 256), nn.Linear(256, 250), nn.LayerNorm(250))
    return nn.ModuleDict({"img_in": nn.Linear(64, 256), "blocks": blocks, "head": nn.Linear(250, 8)}).to(dtype)


def run(module: nn.Module, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    x = torch.randn(24, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        return module["head"](module["blocks"](module["img_in"](x))).float()  # type: ignore[index, operator]


def error(module: nn.Module, expected: Tensor, dtype: torch.dtype = torch.bfloat16) -> float:
    return float((run(module, dtype) - expected).norm() / expected.norm())


def vae() -> nn.Module:
    torch.manual_seed(0)
    layers = {
        "conv_in": nn.Conv2d(3, 32, 3), "mid": nn.Conv2d(32, 64, 3, padding=1), "norm": nn.GroupNorm(4, 64),
        "up": nn.Conv2d(64, 32, 3), "conv_out": nn.Conv2d(32, 3, 3),
    }  # fmt: skip
    return nn.ModuleDict(layers)


def decode(module: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        for name in ("conv_in", "mid", "norm", "up", "conv_out"):
            x = module[name](x)  # type: ignore[index, operator]
    return x.float()


##### What comes out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("backend", ["auto", "patched"])
@pytest.mark.parametrize("method", BOUNDS)
def test_computes_nearly_the_same(method: str, backend: str, dtype: torch.dtype) -> None:
    module = transformer(dtype)
    expected = run(module, dtype)
    same, stats = quantize_component(module, method, backend=backend)
    assert same is module
    assert stats.quantized == ("blocks.0", "blocks.1", "blocks.2")
    assert 0 < error(module, expected, dtype) < BOUNDS[method]


def test_every_method_is_tried_above() -> None:
    assert set(BOUNDS) == set(METHODS) - {"none", "auto"}


@pytest.mark.parametrize("granularity", ["per-tensor", "per-row", "block"])
def test_weights_are_those_of_quantize(granularity: str) -> None:
    module = transformer()
    before = module["blocks"][0].weight.detach().clone()  # type: ignore[index]
    quantize_component(module, "fp8", granularity=granularity, backend="patched")
    found = from_tensor(module["blocks"][0].weight)  # type: ignore[index]
    format = METHODS["fp8-dynamic"].format
    expected = quantize(before, format, format.granularity(granularity))
    assert torch.equal(found.codes.view(torch.uint8), expected.codes.view(torch.uint8))
    assert torch.equal(found.scale, expected.scale)


def test_none_does_nothing() -> None:
    module = transformer()
    before = dict(module.named_parameters())
    _, stats = quantize_component(module, "none")
    assert stats.quantized == () and stats.bytes_before == stats.bytes_after
    assert all(p is before[name] for name, p in module.named_parameters())


def test_dynamic_runs_the_fp8_gemm_and_weight_only_does_not() -> None:
    kernels = {}
    for method in ("fp8-dynamic", "fp8-weight-only"):
        module = transformer()
        quantize_component(module, method, backend="patched")
        run(module)
        layer = module["blocks"][0]  # type: ignore[index]
        assert isinstance(layer, ScaledLinear) and layer.scaled
        (choice,) = layer.scaled.choices.values()
        kernels[method] = choice.kernel.family
        assert choice.calls.total() == 1
    assert kernels["fp8-weight-only"] == "upcast"


def test_keep_and_family_are_heard() -> None:
    _, stats = quantize_component(transformer(), "int8", keep=r"blocks\.1", family="flux1", backend="patched")
    assert stats.skipped["blocks.1"] == r"kept as asked: blocks\.1"
    assert stats.family == "FLUX.1"


def test_none_is_the_family_of_the_generic_rules() -> None:
    """As the refusal of an unknown family says."""
    module = nn.ModuleDict({"double_stream_modulation_img": nn.Linear(32, 32), "double_blocks": nn.Linear(32, 32)})
    _, stats = quantize_component(module, "int8", family="none")
    assert stats.family == "generic" and "double_blocks" in stats.quantized


def test_a_family_is_recognised_by_its_names() -> None:
    module = nn.ModuleDict({"double_stream_modulation_img": nn.Linear(32, 32), "double_blocks": nn.Linear(32, 32)})
    _, stats = quantize_component(module, "int8")
    assert stats.family == "FLUX.2"
    assert list(stats.skipped) == ["double_stream_modulation_img"]


def test_quantized_layers_are_left_alone() -> None:
    module = transformer()
    quantize_component(module, "fp8", backend="patched")
    held = module["blocks"][0].weight  # type: ignore[index]
    _, again = quantize_component(module, "int8", backend="patched")
    assert again.quantized == ()
    assert again.skipped["blocks.0"] == "already quantized to float8_e4m3fn: left as it is"
    assert module["blocks"][0].weight is held  # type: ignore[index]


def test_plain_cast_fp8_is_not_quantized_again() -> None:
    module = transformer()
    layer = module["blocks"][0]  # type: ignore[index]
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    _, stats = quantize_component(module, "int8", backend="patched")
    assert stats.skipped["blocks.0"] == "already float8_e4m3fn without scales: left as it is"


def test_shared_layers_are_counted_once() -> None:
    layer = nn.Linear(64, 64)
    _, stats = quantize_component(nn.Sequential(layer, layer), "int8", backend="patched")
    assert [row.name for row in stats.layers] == ["0"]


def test_search_makes_weights_better() -> None:
    errors = []
    for search in (None, Search()):
        module = transformer(torch.float32)
        before = module["blocks"][0].weight.detach().clone()  # type: ignore[index]
        quantize_component(module, "nvfp4", backend="patched", search=search)
        errors.append(float((from_tensor(module["blocks"][0].weight).dequantize() - before).norm()))  # type: ignore[index]
    assert errors[1] < 0.97 * errors[0]


def test_progress_is_told() -> None:
    seen: list[tuple[int, int]] = []
    quantize_component(transformer(), "int8", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


##### VAE


@pytest.mark.parametrize("method", ["int8", "auto"])
@pytest.mark.parametrize("granularity", ["per-row", "per-tensor"])
def test_a_vae_has_int8_convolutions(method: str, granularity: str) -> None:
    module = vae()
    expected = decode(module)
    _, stats = quantize_component(module, method, "vae", granularity)
    assert stats.quantized == ("mid", "up")
    assert 0 < float((decode(module) - expected).norm() / expected.norm()) < 0.02
    assert stats.bytes_after < 0.4 * stats.bytes_before
    assert module["mid"].parametrizations.weight.original.dtype == torch.int8  # type: ignore[index, union-attr]


def test_a_quantized_vae_is_cast_and_left_alone_the_second_time() -> None:
    module = vae()
    expected = decode(module)
    quantize_component(module, "int8", "vae")
    _, again = quantize_component(module, "int8", "vae")
    assert again.skipped["mid"] == "already quantized to int8: left as it is"
    module.to(torch.bfloat16)
    assert module["mid"].parametrizations.weight[0].scale.dtype == torch.float32  # type: ignore[index, union-attr]
    assert float((decode(module, torch.bfloat16) - expected).norm() / expected.norm()) < 0.03


@pytest.mark.parametrize("method", ["fp8", "fp8-weight-only", "int4", "nvfp4"])
def test_other_methods_are_refused_for_a_vae(method: str) -> None:
    module = vae()
    with pytest.raises(Refused, match="'vae' is not quantized to"):
        quantize_component(module, method, "vae")
    assert not hasattr(module["mid"], "parametrizations")  # type: ignore[index]


##### Backends


def test_torchao_refuses_dynamic_fp8_on_a_cpu_and_auto_says_so() -> None:
    with pytest.raises(Refused, match="refuses dynamic FP8 on a CPU; choose patched"):
        quantize_component(transformer(), "fp8", backend="torchao")
    _, stats = quantize_component(transformer(), "fp8", backend="auto")
    assert (stats.backend, stats.backend_reason) == ("patched", "torchao: it refuses dynamic FP8 on a CPU")


@pytest.mark.parametrize("granularity", ["per-row", "per-tensor"])
@pytest.mark.parametrize("method", ["fp8-weight-only", "int8"])
def test_torchaos_own_tensors(method: str, granularity: str) -> None:
    pytest.importorskip("torchao")
    module, expected = transformer(), run(transformer())
    _, stats = quantize_component(module, method, granularity=granularity, backend="torchao")
    assert type(module["blocks"][0].weight.data).__module__.startswith("torchao")  # type: ignore[index]
    assert 0 < error(module, expected) < BOUNDS[method]
    assert stats.bytes_after < 0.62 * stats.bytes_before
    assert not any(is_scaled(p) for p in module.parameters())


def test_auto_takes_torchao_where_it_runs() -> None:
    pytest.importorskip("torchao")
    _, stats = quantize_component(transformer(), "int8", backend="auto")
    assert (stats.backend, stats.backend_reason) == ("torchao", "Int8WeightOnlyConfig runs on cpu")


@pytest.mark.parametrize(
    ("method", "granularity", "component", "reason"),
    [
        ("nvfp4", None, "transformer", "has no nvfp4"),
        ("fp8-weight-only", "block", "transformer", "has no block scales"),
        ("int8", "per-row", "vae", "leave convolutions"),
    ],
    ids=str,
)
def test_what_torchao_cannot_has_a_reason(method: str, granularity: str | None, component: str, reason: str) -> None:
    chosen = METHODS[method]
    place = (torch.device("cpu"), torch.bfloat16)
    assert reason in str(torchao_problem(chosen, chosen.granularity(granularity), place, component))


def test_a_layer_that_torchao_silently_leaves_is_named() -> None:
    pytest.importorskip("torchao")
    layer = nn.Linear(50, 33)
    backend = torchao(METHODS["int4"], METHODS["int4"].granularity())
    problem = backend.quantize(layer, "blocks.0.q", None, None)  # type: ignore[arg-type]
    assert problem == "torchao's Int4WeightOnlyConfig leaves [33, 50] as it is"
    assert type(layer.weight.data) is Tensor


def test_a_wrong_torchao_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(layer: nn.Module, *_: object) -> None:
        layer.weight.data = layer.weight.data.flip(0)  # type: ignore[union-attr, operator]

    monkeypatch.setattr(backends, "convert", spoil)
    place = (torch.device("cpu"), torch.float32)
    problem = backends.tried.__wrapped__(METHODS["int8"], METHODS["int8"].granularity(), place)
    assert problem is not None and problem.startswith("wrong on cpu: relative error")


def test_torchao_that_is_not_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    place = (torch.device("cpu"), torch.float32)
    problem = backends.tried.__wrapped__(METHODS["int8"], METHODS["int8"].granularity(), place)
    assert problem is not None and "torchao" in problem


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "triton"}, "backend 'triton' is unknown"),
        ({"method": "fp5"}, "method 'fp5' is unknown"),
        ({"component": "unet"}, "component 'unet' is unknown"),
        ({"granularity": "rows"}, "granularity 'rows' is unknown"),
        ({"family": "flux"}, "family 'flux' is unknown"),
        ({"keep": "["}, "is not a regular expression"),
    ],
    ids=str,
)
def test_unknown_arguments_are_refused_before_anything_is_done(arguments: dict[str, str], message: str) -> None:
    module = transformer()
    with pytest.raises(Refused, match=message):
        quantize_component(module, **arguments)
    assert not any(is_scaled(p) for p in module.parameters())


def test_a_damaged_layer_is_named() -> None:
    module = transformer()
    module["blocks"][1].weight.data[3, 4] = float("nan")  # type: ignore[index]
    with pytest.raises(Refused, match=r"blocks\.1: has NaN"):
        quantize_component(module, "int8", backend="patched")


def test_modules_without_weights_are_refused() -> None:
    with pytest.raises(Refused, match="ReLU: has no weights"):
        quantize_component(nn.ReLU())
    with pytest.raises(Refused, match="meta device"):
        quantize_component(nn.Linear(64, 64, device="meta"))


##### Stats


@pytest.fixture
def stats() -> Stats:
    return quantize_component(transformer(), "fp8", backend="patched")[1]


def test_bytes_are_those_of_the_tensors(stats: Stats) -> None:
    weights = 512 * 256 + 256 * 512 + 250 * 256
    scales = 4 * (512 + 256 + 250)
    assert stats.bytes_before - stats.bytes_after == weights - scales
    assert stats.layers[1].bytes_after == 512 * 256 + 4 * 512 + 2 * 512


def test_bytes_of_tensors_made_of_tensors() -> None:
    pytest.importorskip("torchao")
    module, _ = quantize_component(nn.Sequential(nn.Linear(64, 128)), "int8", backend="torchao")
    assert 128 * 64 + 128 * 4 <= nbytes(module[0].weight) <= 128 * 64 + 128 * 8  # type: ignore[index]


def test_stats_print_and_serialise(stats: Stats) -> None:
    told = json.loads(json.dumps(stats.to_json()))
    assert told["quantized"] == ["blocks.0", "blocks.1", "blocks.2"]
    assert told["skipped"] == {"img_in": "embeds the input", "head": stats.skipped["head"]}
    assert told["method"] == "fp8-dynamic" and told["backend"] == "patched"
    table = stats.table()
    assert "3 of 5 layers quantized" in table
    assert all(name in table for name in ("img_in", "blocks.2", "backend patched: as asked", "embeds the input"))


##### Memory


@pytest.mark.parametrize("method", BOUNDS)
def test_at_most_three_times_the_largest_layer_beside_the_result(method: str) -> None:
    module = nn.Sequential(*(nn.Linear(1024, 2048, bias=False) for _ in range(2))).to(torch.bfloat16)
    quantize_component(nn.Sequential(nn.Linear(1024, 32)).bfloat16(), method, backend="patched")  # probes are cached
    with LiveBytes() as live:
        _, stats = quantize_component(module, method, backend="patched")
    largest = 1024 * 2048 * 2
    assert live.peak <= stats.bytes_after + 3 * largest


def test_named_layers_are_left_with_all_below_them() -> None:
    module = nn.ModuleDict({"a": nn.Sequential(nn.Linear(64, 64)), "ab": nn.Linear(64, 64), "b": nn.Linear(64, 64)})
    _, stats = quant.quantize_component(module, "int8", ignored_layers=["a"], keep="^b$", backend="patched")
    assert stats["quantized"] == ["ab"]
    assert {**stats} == dict(stats.items()) == stats.to_json() and stats["method"] == "int8"
    assert "skipped" in stats and "absent" not in stats and stats.get("absent", 3) == 3


def test_a_vae_is_quantized_by_its_own_name_and_told_aloud(capsys) -> None:
    _, stats = quant.quantize_vae(nn.Sequential(nn.Conv2d(32, 32, 3), nn.Linear(32, 32)), verbose=True)
    assert capsys.readouterr().out.strip() == stats.table().strip()


def test_what_fp8_takes() -> None:
    assert quant.is_fp8_compatible_layer(nn.Linear(64, 64))
    assert not quant.is_fp8_compatible_layer(nn.Linear(64, 8))
    assert not quant.is_fp8_compatible_layer(nn.Conv2d(64, 64, 1))


def test_this_machine_is_asked_what_it_can() -> None:
    assert quant.get_recommended_method("cpu") in quant.VALID_METHODS
    works, reason = quant.check_fp8_support("cpu")
    assert isinstance(works, bool) and ":" in reason


GPUS = {"cuda:0": "a GPU", "cuda:1": "a GPU"}


@pytest.mark.parametrize(("found", "first"), [({}, "cpu"), (GPUS, "cuda:0")])
def test_a_gpu_is_asked_where_there_is_one(monkeypatch: pytest.MonkeyPatch, found: dict[str, str], first: str) -> None:
    monkeypatch.setattr(auto, "devices", lambda: {"cpu": "AVX2", **found})
    assert auto.usual_device() == first
