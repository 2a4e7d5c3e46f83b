"""The chooser: the first kernel that fits and is proven, with a reason for every one that is not."""

from __future__ import annotations

import copy

import pytest
import torch
from products import DTYPES, E4M3
from scaled_fp8 import quant
from scaled_fp8.quant.kernels import plan, speed
from scaled_fp8.quant.kernels.forward import apply
from scaled_fp8.quant.kernels.mode import Mode
from scaled_fp8.quant.kernels.plan import choose, choose_for, elsewhere, require
from scaled_fp8.quant.kernels.proof_cache import Proof
from scaled_fp8.quant.kernels.registry import KERNELS

FAMILY = {kernel.name: kernel.family for kernel in KERNELS}


def chosen(granularity=quant.PerRow(), format=E4M3, **options) -> plan.Choice:  # noqa: B008
    options = {"compute": "scaled_mm", **options}
    return choose(format, granularity, (48, 64), "cpu", options.pop("dtype", torch.bfloat16), **options)


@pytest.fixture
def broken(monkeypatch):
    """Make kernels of these names fail their probe."""

    def fail(*names: str) -> None:
        real = plan.prove
        lost = Proof(None, "raises on cpu: RuntimeError: lost")
        monkeypatch.setattr(plan, "prove", lambda kernel, layer: lost if kernel.name in names else real(kernel, layer))

    return fail


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("granularity", (quant.PerTensor(), quant.PerRow()), ids=lambda g: g.name)
def test_scaled_mm_is_per_token_where_it_is_proven(granularity, dtype):
    choice = chosen(granularity, dtype=dtype)
    assert choice.kernel.family == "scaled_mm"
    assert choice.activation == "dynamic"
    assert "proven" in choice.reason


def test_what_the_probe_refutes_is_passed_over(broken):
    broken("scaled_mm per-row")
    choice = chosen()
    assert choice.kernel.name == "scaled_mm emulated per-row"
    assert choice.refused["scaled_mm per-row"] == "raises on cpu: RuntimeError: lost"


def test_without_any_scaled_mm_it_upcasts_and_says_why(broken):
    broken(*(name for name, family in FAMILY.items() if family == "scaled_mm"))
    choice = chosen()
    assert (choice.kernel.family, choice.activation) == ("upcast", None)
    assert "scaled_mm emulated per-row raises on cpu: RuntimeError: lost" in choice.reason


def test_a_device_that_cannot_cast_gets_the_table(broken):
    broken("upcast", "upcast by bits")
    assert chosen(compute="upcast").kernel.name == "upcast by table"


def test_nothing_proven_is_refused(broken):
    broken(*FAMILY)
    with pytest.raises(quant.Refused, match="No kernel computes float8_e4m3fn weights on cpu"):
        chosen()


def test_block_is_dequantized(broken):
    broken("upcast by bits")
    choice = chosen(quant.PerBlock())
    assert choice.kernel.name == "dequantized block"
    assert "scaled_mm block raises on cpu" in choice.reason
    assert choice.refused["scaled_mm per-row"] == "needs per-row scales, not block"


@pytest.mark.parametrize("granularity", quant.GRANULARITIES.values(), ids=quant.GRANULARITIES)
def test_upcast_when_asked(granularity):
    choice = chosen(granularity, compute="upcast")
    assert (choice.kernel.family, choice.reason, choice.activation) == ("upcast", "as asked", None)


@pytest.mark.parametrize("compute", plan.FAMILIES)
@pytest.mark.parametrize("format", quant.FORMATS.values(), ids=lambda f: f.name)
def test_every_format_has_a_kernel_and_a_reason(format, compute):
    for granularity in format.granularities:
        choice = chosen(granularity, format, compute=compute)
        assert choice.reason
        assert (choice.activation is None) == (not choice.kernel.on_codes)


def test_transformed_weights_are_upcast():
    choice = chosen(has_transform=True, compute="scaled_mm")
    assert choice.kernel.name == "upcast"
    assert "needs a weight without smoothing or rotation" in choice.reason


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("granularity", (quant.PerTensor(), quant.PerRow(), quant.PerBlock()), ids=lambda g: g.name)
def test_auto_upcasts_float8_on_a_cpu_and_says_why(granularity, dtype):
    choice = chosen(granularity, dtype=dtype, compute="auto")
    assert (choice.kernel.name, choice.activation) == ("upcast by bits", None)
    assert "times as long as upcast by bits" in choice.reason


def test_auto_takes_int8_on_a_cpu():
    choice = chosen(format=quant.FORMATS["int8"], compute="auto")
    assert (choice.kernel.name, choice.activation) == ("scaled_mm int8", "dynamic")


def test_choose_for_sees_the_transform():
    weight = quant.quantize(torch.ones(16, 16), E4M3, quant.PerTensor())
    smooth = quant.QuantizedWeight(**{**vars(weight), "smooth": torch.ones(16)})
    names = [choose_for(w, torch.device("cpu"), torch.float32, Mode("scaled_mm")).kernel.name for w in (weight, smooth)]
    assert FAMILY[names[0]] == "scaled_mm"
    assert names[1] == "upcast"


def test_a_plausible_input_scale_is_used(monkeypatch):
    # where times are alike, one scale for all activations goes first
    monkeypatch.setattr(speed, "ratio", lambda kernel, layer, tokens: 1.0)
    scale = torch.tensor(0.02)
    choices = [chosen(g, activation_scale="static", input_scale=scale) for g in (quant.PerTensor(), quant.PerRow())]
    assert [choice.activation for choice in choices] == ["static", "static"]
    assert choices[0].kernel.name == "scaled_mm per-tensor"


IMPLAUSIBLE = {
    "none": (None, "no input_scale"),
    "one": (torch.tensor(1.0), "placeholder"),
    "zero": (torch.tensor(0.0), "no activation needs"),
    "negative": (torch.tensor(-0.1), "no activation needs"),
    "nan": (torch.tensor(float("nan")), "no activation needs"),
    "inf": (torch.tensor(float("inf")), "no activation needs"),
    "per channel": (torch.ones(64), "64 values"),
    "meta": (torch.empty((), device="meta"), "meta device"),
}


@pytest.mark.parametrize(("scale", "doubt"), IMPLAUSIBLE.values(), ids=IMPLAUSIBLE)
def test_an_implausible_input_scale_is_not(scale, doubt):
    choice = chosen(quant.PerTensor(), activation_scale="static", input_scale=scale)
    assert choice.activation == "dynamic"
    assert f"dynamic because {'the file has ' if scale is None else 'input_scale'}" in choice.reason
    assert doubt in choice.reason


def test_dynamic_ignores_the_input_scale():
    assert chosen(quant.PerTensor(), input_scale=torch.tensor(0.02)).activation == "dynamic"


@pytest.mark.parametrize("granularity", (quant.PerTensor(), quant.PerRow()), ids=lambda g: g.name)
def test_one_dynamic_scale_for_all_tokens(granularity):
    torch.manual_seed(0)
    choice = chosen(granularity, activation_scale="dynamic-per-tensor", dtype=torch.float32)
    assert (FAMILY[choice.kernel.name], choice.activation) == ("scaled_mm", "dynamic-per-tensor")
    x = torch.randn(3, 64) * torch.tensor([[1.0], [1e-3], [1e-7]])
    weight = quant.quantize(torch.randn(48, 64), E4M3, granularity)
    scale = x.abs().amax() / E4M3.maximum
    want = (x / scale).to(torch.float8_e4m3fn).float() @ weight.dequantize().T * scale
    torch.testing.assert_close(apply(x, weight, None, choice), want, rtol=1e-4, atol=1e-6)
    # a scale a token tells the smallest one from nothing, one scale for all does not
    assert not want[2].any()
    assert apply(x, weight, None, chosen(granularity, dtype=torch.float32))[2].any()


def test_a_kernel_of_int8_keeps_its_scale_a_token():
    choice = chosen(format=quant.FORMATS["int8"], activation_scale="dynamic-per-tensor")
    assert (choice.kernel.name, choice.activation) == ("scaled_mm int8", "dynamic")


def test_require_refuses_only_when_no_layer_can():
    block, row = (chosen(g, compute="scaled_mm") for g in (quant.PerBlock(), quant.PerRow()))
    require([block, row], "scaled_mm")
    require([block], "auto")
    require([], "scaled_mm")
    with pytest.raises(quant.Refused, match="'scaled_mm' fits none of 2 layers: .*scaled_mm block raises"):
        require([block, block], "scaled_mm")


@pytest.mark.parametrize("options", ({"compute": "fast"}, {"activation_scale": "frozen"}), ids=str)
def test_unknown_options_are_refused(options):
    with pytest.raises(quant.Refused, match=next(iter(options.values()))):
        chosen(**options)


def test_meta_is_refused():
    with pytest.raises(quant.Refused, match="meta device has no weights"):
        choose(E4M3, quant.PerRow(), (48, 64), "meta", torch.bfloat16)


def test_a_copy_is_the_same_choice():
    choice = chosen()
    assert copy.deepcopy(choice) is choice


def test_elsewhere_a_layer_is_planned_once_by_the_same_wish_and_counted_here(monkeypatch):
    weight = quant.quantize(torch.randn(64, 64), quant.FORMATS["float8_e4m3fn"])
    here = plan.choose_for(weight, torch.device("cpu"), torch.bfloat16, Mode("upcast"))
    planned = []
    choose_for = plan.choose_for
    monkeypatch.setattr(plan, "choose_for", lambda *asked: planned.append(asked[1:]) or choose_for(*asked))
    for _ in range(3):
        there = elsewhere(here, weight, torch.device("cpu"), torch.float32)
        there.count(there.kernel.name)
    assert elsewhere(here, weight, torch.device("cpu"), torch.bfloat16) is here
    assert planned == [(torch.device("cpu"), torch.float32, Mode("upcast"))]
    assert here.calls.total() == 3
