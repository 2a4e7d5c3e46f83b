"""Scales and codes are made as a kernel reads them once, when it is chosen, and go wherever the weight goes."""

from __future__ import annotations

import copy
from dataclasses import replace

import comfy_kitchen as ck
import pytest
import torch
import torch.nn.functional as F
from cublas import blocks_as_cublas, mxfp8_as_cublas, nvfp4_as_cublas
from launches import Launches
from products import E4M3, FAKE, fake, faked, product, quantized, sqnr, weight
from scaled_fp8 import quant
from scaled_fp8.quant.kernels.activations import SCHEMES
from scaled_fp8.quant.kernels.arrangement import block_columns, nv_divisors
from scaled_fp8.quant.kernels.blackwell import nv_scales
from scaled_fp8.quant.kernels.choice import Choice, Way
from scaled_fp8.quant.kernels.diagnosis import typical
from scaled_fp8.quant.kernels.gemm import Codes
from scaled_fp8.quant.kernels.mode import Mode
from scaled_fp8.quant.kernels.plan import choose_for
from scaled_fp8.quant.kernels.probe import probe_error
from scaled_fp8.quant.kernels.proof import SHAPE
from scaled_fp8.quant.kernels.registry import KERNELS
from scaled_fp8.quant.kernels.rules import Workload
from scaled_fp8.quant.nn.tensor import as_computed, from_tensor, tensors_in, to_tensor, with_choice
from scaled_fp8.quant.weights.compact import compact_scale
from torch import Tensor, nn

CPU = torch.device("cpu")
E5M2 = quant.FORMATS["float8_e5m2"]
BY_NAME = {kernel.name: kernel for kernel in KERNELS}
ARRANGED = [kernel for kernel in KERNELS if kernel.arrange]


@pytest.mark.parametrize("shape", (SHAPE, (256, 1024), (130, 128)), ids=str)
def test_blocks_are_right_for_operands_as_cublas_takes_them(monkeypatch, shape):
    """For any number of tokens, one among them."""
    monkeypatch.setattr(F, "scaled_mm", blocks_as_cublas)
    kernel = BY_NAME["scaled_mm block"]
    layer = replace(typical(kernel, CPU, torch.bfloat16), shape=shape)
    assert probe_error(kernel, layer, "eager") <= kernel.bound


@pytest.fixture
def blackwell(monkeypatch) -> None:
    monkeypatch.setattr(ck, "scaled_mm_nvfp4", nvfp4_as_cublas)
    monkeypatch.setattr(ck, "scaled_mm_mxfp8", mxfp8_as_cublas)


##### Held with the weight


def held_weight(name: str) -> quant.QuantizedWeight:
    """A weight that the kernel of that name takes, of one scale where it would be repeated."""
    layer = typical(BY_NAME[name], CPU, torch.bfloat16)
    if name == "scaled_mm block":
        return weight(280, 648, granularity=quant.PerBlock(128, 128))
    if layer.format.name in ("mxfp8", "nvfp4", "int8_convrot"):
        return quant.quantize(weight(280, 768).dequantize(), layer.format)
    return quantized(torch.randn(280, 648), granularity=quant.PerTensor()) if "int8" not in name else int8_weight()


def int8_weight() -> quant.QuantizedWeight:
    return quant.quantize(torch.randn(280, 648), quant.FORMATS["int8"], quant.PerTensor())


RUNS_HERE = [kernel.name for kernel in ARRANGED if kernel.name != "scaled_mm block"]


@pytest.mark.parametrize("device", ("cpu", "cuda"))
@pytest.mark.parametrize("name", RUNS_HERE)
def test_a_kernel_computes_the_same_by_parts_that_are_held(blackwell, name, device):
    """Those for a GPU too, for the device that a weight was planned for is not always where it runs."""
    kernel, w = BY_NAME[name], held_weight(name)
    parts = kernel.arrange.of(w, torch.device(device))
    x, bias = torch.randn(5, w.shape[1]).bfloat16(), torch.randn(280).bfloat16()
    without = kernel.run(x, w, bias, None)
    stored = replace(w, scale=compact_scale(w), **parts)
    assert torch.equal(kernel.run(x, stored, bias, None), without)
    assert set(parts) == HELD[device].get(name, {"arranged"})
    least = 15.0 if "nvfp4" in name else 26.0
    assert sqnr(without.float(), product(x, w, bias)) >= least


# of 280 outputs, no multiple of 16: what is held beside the scales in a kernel's order, or instead
FILLED, ONE_SCALE = {"arranged", "filled"}, ("per-tensor fast", "per-tensor", "per-tensor dynamic")
FUSED = {"scaled_mm int8 fused": {"arranged"}, "scaled_mm int8 convrot fused": {"arranged"}}
OWN_SCALES = ("int8 convrot", "int8 convrot fused")
BLACKWELL = {"scaled_mm mxfp8": FILLED, "scaled_mm nvfp4": {*FILLED, "given"}}
HELD = {
    "cpu": {**BLACKWELL, **dict.fromkeys((f"scaled_mm {name}" for name in (*ONE_SCALE, *OWN_SCALES)), set())},
    "cuda": {
        **dict.fromkeys(RUNS_HERE, FILLED), **BLACKWELL, **FUSED,
        **{f"scaled_mm {name}": {"filled"} for name in ONE_SCALE},
    },
}  # fmt: skip


@pytest.mark.parametrize("size", (1.0, 1e-3, 300.0, 0.0))
def test_the_scales_above_those_of_nvfp4_blocks_take_two_launches(size):
    """That of the activations lets their largest block use all its range; the other is both, of weight and them."""
    w = held_weight("scaled_mm nvfp4")
    held = replace(w, given=nv_divisors(w, CPU))
    x = (torch.randn(5, w.shape[1]) * size).bfloat16()
    with Launches() as launched:
        both, outer = nv_scales(x, held)
    assert len(launched.names) == 2
    torch.testing.assert_close(outer, (x.float().abs().max() / (6 * 448)).clamp(min=torch.finfo().tiny))
    torch.testing.assert_close(both, outer * w.outer.reshape(()))
    assert outer > 0 and torch.equal(torch.stack(nv_scales(x, w)), torch.stack((both, outer)))


@pytest.mark.parametrize("kernel", ARRANGED, ids=lambda kernel: kernel.name)
def test_codes_that_need_no_filling_are_not_held_twice(kernel):
    layer = typical(kernel, CPU, torch.bfloat16)
    w = (
        quantized(torch.randn(256, 512))
        if layer.format == E4M3
        else quant.quantize(torch.randn(256, 512), layer.format)
    )
    w = replace(w, granularity=layer.granularity) if layer.granularity == quant.PerTensor() else w
    assert "filled" not in kernel.arrange.of(w, torch.device("cuda"))


@pytest.mark.parametrize("kernel", [kernel for kernel in ARRANGED if "per-" in kernel.name], ids=lambda k: k.name)
def test_of_a_weight_that_no_gemm_takes_only_activations_are_filled_up_at_each_call(kernel):
    granularity = quant.PerTensor() if "per-tensor" in kernel.name else quant.PerRow()
    w = weight(48, 84, granularity=granularity)
    parts = kernel.arrange.of(w, torch.device("cuda"))
    assert parts["filled"].shape == (48, 96)
    held = faked(replace(w, **parts), "cuda")
    with FAKE, torch.no_grad():
        x = fake(torch.zeros(32, 84, dtype=torch.float8_e4m3fn), "cuda")
        scale = fake(torch.ones(1 if "per-tensor" in kernel.name else 32, 1), "cuda")
        a = Codes(x, scale, torch.bfloat16)
        kernel.compute(a, held, None)
        with Launches() as launched:
            kernel.compute(a, held, None)
    assert [name for name in launched.names if name != "mul_"] == ["constant_pad_nd", "_scaled_mm"]


def test_scales_of_blocks_lie_as_cublas_reads_them():
    """One column of blocks after another, each begun at a multiple of 16 bytes."""
    scale = weight(300, 700, granularity=quant.PerBlock(128, 128)).scale
    found = block_columns(weight(300, 700, granularity=quant.PerBlock(128, 128)), CPU)
    assert found.shape == (8, 3) and found.stride() == (1, 8)
    assert torch.equal(found.t()[:, :6], scale) and not found.t()[:, 6:].any()


DEVICE = "needs an NVIDIA GPU"


@pytest.mark.parametrize("kernel", ARRANGED, ids=lambda kernel: kernel.name)
def test_kernels_that_take_one_weight_arrange_its_scales_alike(kernel):
    layer = typical(kernel, CPU, torch.bfloat16)
    others = {other.arrange for other in ARRANGED if (other.refuses(layer) or DEVICE).startswith(DEVICE)}
    for name, own in kernel.arrange._asdict().items():
        assert {getattr(other, name) for other in others} - {None} <= {own} or own is None


##### In a layer


ONE = quant.PerTensor()


def layer_of(
    format: str = "float8_e4m3fn", compute: str = "scaled_mm", granularity: quant.PerTensor = ONE,
    input_scale: Tensor | None = None, activation_scale: str = "dynamic",
) -> tuple[nn.Sequential, quant.QuantizedWeight]:  # fmt: skip
    torch.manual_seed(0)
    linear = nn.Linear(64, 48).bfloat16().requires_grad_(False)
    own = quantized(linear.weight.float(), quant.FORMATS[format], granularity)
    own = replace(own, input_scale=input_scale)
    model = nn.Sequential(linear)
    quant.patch_linears(model, {"0": own}, compute=compute, activation_scale=activation_scale)
    return model, own


def arranged_of(model: nn.Sequential) -> Tensor | None:
    return as_computed(model[0].weight).arranged


def test_a_forward_of_one_scale_multiplies_and_nothing_else(monkeypatch):
    """In inference mode, as ComfyUI runs it, where nothing can be kept beside a tensor: one launch beside that which
    quantizes."""
    model, _ = layer_of()
    only_multiplies(model, monkeypatch, "float8 per-token")


@pytest.mark.parametrize("granularity", (quant.PerTensor(), quant.PerRow()), ids=str)
def test_so_does_one_by_the_scale_of_a_file(monkeypatch, granularity):
    model, own = layer_of(granularity=granularity, input_scale=torch.tensor(0.01), activation_scale="static")
    chosen = next(iter(model[0].scaled.choices.values()))
    assert (chosen.activation, chosen.kernel.family) == ("static", "scaled_mm")
    assert as_computed(model[0].weight).given is None
    only_multiplies(model, monkeypatch, chosen.kernel.static)
    monkeypatch.undo()
    x = torch.randn(32, 64).bfloat16()
    assert sqnr(model(x).float(), product(x, own, model[0].bias)) >= 26


@pytest.mark.parametrize("name", ("scaled_mm per-row", "scaled_mm per-tensor", "scaled_mm emulated per-row"))
def test_a_files_scale_for_other_codes_is_made_one_for_ours_once(name):
    """A file of e5m2 has it for e5m2 activations, whose largest code is 57344; ours are e4m3, to 448."""
    own = replace(weight(48, 64, E5M2, quant.PerTensor()), input_scale=torch.tensor(0.01))
    kernel, layer = BY_NAME[name], replace(typical(BY_NAME[name], CPU, torch.bfloat16), format=E5M2)
    found = Choice(Way(kernel, "asked", "static"), {}, layer).arranged(own)
    assert torch.equal(found.given, torch.tensor(0.01 * 128))
    seen = replace(kernel, compute=lambda a, weight, bias: a.scale)
    x = torch.randn(32, 64).bfloat16()
    with Launches() as launched:
        scale = seen.run(x, found, None, found.input_scale)
    assert set(scale.flatten().tolist()) == {found.given.item()}
    with Launches() as without:
        seen.run(x, own, None, own.input_scale)
    assert len(without.names) == len(launched.names) + 1


def only_multiplies(model: nn.Sequential, monkeypatch, scheme: str) -> None:
    x, codes = torch.ones(32, 64).bfloat16(), torch.ones(32, 64).to(torch.float8_e4m3fn)
    scale = torch.ones(1 if scheme == "float8 static" else 32, 1)
    monkeypatch.setitem(SCHEMES, scheme, lambda x, _: (codes, scale))
    with torch.inference_mode():
        model._apply(Tensor.clone)
        assert model[0].weight.is_inference()
        model(x)
        with Launches() as launched:
            model(x)
    assert launched.names == ["_scaled_mm"]


def test_held_scales_are_counted_and_move_with_the_weight():
    model, own = layer_of()
    assert torch.equal(arranged_of(model), own.scale.expand(1, 48))
    assert any(part is arranged_of(model) for part in tensors_in(model[0].weight))
    assert model.to("meta")[0].weight._params.arranged.is_meta


def test_what_dequantizes_holds_nothing_more():
    model, _ = layer_of(compute="upcast")
    assert arranged_of(model) is None


def test_a_copy_and_another_weight_loaded_have_their_own():
    model, own = layer_of()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not any("arranged" in name for name in state)
    state["0.weight_scale"] *= 2
    other = copy.deepcopy(model)
    other.load_state_dict(state)
    assert torch.equal(arranged_of(other), own.scale.expand(1, 48) * 2)
    assert torch.equal(arranged_of(model), own.scale.expand(1, 48))
    x = torch.randn(3, 64).bfloat16()
    assert sqnr(other(x).float(), product(x, replace(own, scale=own.scale * 2), model[0].bias)) >= 26


##### Quantized anew


def tensor_of(own: quant.QuantizedWeight):
    return with_choice(to_tensor(own, torch.bfloat16), choose_for(own, CPU, torch.bfloat16, Mode("scaled_mm")))


@pytest.mark.parametrize("scale", ("recalculate", torch.tensor(0.02)), ids=("new", "given"))
def test_a_merged_lora_has_the_scales_of_its_own_weight(scale):
    own = quantized(torch.randn(48, 64), granularity=quant.PerTensor())
    tensor = tensor_of(own)
    merged = tensor.requantize_from_float(own.dequantize() * 3, scale=scale)
    found = from_tensor(merged).scale
    assert not torch.equal(found, own.scale)
    assert torch.equal(as_computed(merged).arranged, found.expand(1, 48))


@pytest.mark.parametrize("here, there", ((True, True), (True, False), (False, True)))
def test_a_copy_in_place_never_leaves_the_scales_of_another_weight(here, there):
    """As ComfyUI puts a weight back over a merged one; where only one of both is planned, none is held."""
    one, other = (quantized(torch.randn(48, 64) * size, granularity=quant.PerTensor()) for size in (1, 5))
    into, source = (
        tensor_of(own) if planned else to_tensor(own, torch.bfloat16) for own, planned in ((one, here), (other, there))
    )
    into.copy_(source)
    held = as_computed(into)
    assert torch.equal(held.dequantize(), other.dequantize())
    if here and there:
        assert torch.equal(held.arranged, other.scale.expand(1, 48))
        assert held.arranged.data_ptr() != as_computed(source).arranged.data_ptr()
    else:
        assert held.arranged is None


def test_codes_that_are_filled_up_follow_a_merge_a_copy_and_a_move():
    """Of a weight that is planned for a GPU, whatever becomes of it: never another weight's."""
    kernel, layer = BY_NAME["scaled_mm per-row"], Workload(E4M3, ONE, (50, 84), torch.device("cuda"), torch.bfloat16)
    choice = Choice(Way(kernel, "asked", "dynamic"), {}, layer)
    own, other = (quantized(torch.randn(50, 84) * size, granularity=ONE) for size in (1, 5))
    into, source = (with_choice(to_tensor(w, torch.bfloat16), choice) for w in (own, other))
    merged = into.requantize_from_float(own.dequantize() * 3, scale="recalculate", stochastic_rounding=7)
    into.copy_(source)
    for tensor in (into, merged, source.clone()):
        held = as_computed(tensor)
        assert held.filled.shape == (64, 96) and held.arranged.shape == (1, 64)
        assert torch.equal(held.filled[:50, :84].view(torch.uint8), held.codes.view(torch.uint8))
        assert torch.equal(held.arranged[:, :50], held.scale.expand(1, 50))
    assert torch.equal(from_tensor(into).codes.view(torch.uint8), other.codes.view(torch.uint8))
    assert as_computed(into).filled.data_ptr() != as_computed(source).filled.data_ptr()
    assert source.to("meta")._params.filled.is_meta
