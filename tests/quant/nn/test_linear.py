"""The forward of a scaled Linear: any shape, dtype, mode; the same as F.linear but for the rounding."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from products import DTYPES, E4M3, FAKE, SPREADS, activation, fake, faked, product, quantized, sqnr, weight
from safetensors.torch import load, save
from scaled_fp8 import quant
from scaled_fp8.quant.kernels.forward import apply, high_precision
from scaled_fp8.quant.kernels.mode import Mode
from scaled_fp8.quant.kernels.plan import choose_for
from scaled_fp8.quant.nn.linear import ScaledLinear
from torch import nn

CPU = torch.device("cpu")
COMPUTE = ("scaled_mm", "upcast")


def chosen(w, dtype=torch.float32, compute="scaled_mm", activation_scale="dynamic"):
    return choose_for(w, CPU, dtype, Mode(compute, activation_scale))


def ran(x, w, bias=None, compute="scaled_mm"):
    return apply(x, w, bias, chosen(w, x.dtype, compute))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize("granularity", (quant.PerTensor(), quant.PerRow()), ids=lambda g: g.name)
def test_28_db_whatever_the_activations(granularity, spread, dtype):
    x, w = activation(spread, 2, 24, 320).to(dtype), weight(128, 320, granularity=granularity)
    choice = chosen(w, dtype, "scaled_mm")
    assert choice.kernel.family == "scaled_mm"
    assert sqnr(apply(x, w, None, choice), product(x, w)) >= 28


SHAPES = ((64,), (1, 64), (5, 64), (2, 3, 64), (2, 1, 3, 64), (2, 2, 1, 3, 64), (0, 64), (2, 0, 64), (1, 0, 3, 1, 64))


@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no bias"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_inputs_of_any_shape(shape, compute, dtype, bias):
    w, x = weight(33, 64), activation(1.0, *shape).to(dtype)
    b = torch.linspace(-1, 1, 33).to(dtype) if bias else None
    got = ran(x, w, b, compute)
    want = F.linear(x, w.dequantize(dtype), b)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert sqnr(got, product(x, w, b)) >= 28


@pytest.mark.parametrize("granularity", (*quant.GRANULARITIES.values(), quant.PerBlock(16, 8)), ids=str)
@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("shape", ((1, 1), (17, 23), (40, 72), (16, 130)), ids=str)
def test_weights_of_any_shape(shape, compute, granularity):
    w, x = weight(*shape, granularity=granularity), activation(1.0, 6, shape[1])
    assert sqnr(ran(x, w, None, compute), product(x, w)) >= 25


@pytest.mark.parametrize("shape", ((0, 8), (8, 0), (0, 0)), ids=str)
def test_empty_weights_are_torchs(shape):
    w = quant.QuantizedWeight(E4M3, torch.empty(shape, dtype=E4M3.dtype), torch.tensor(1.0), quant.PerTensor(), shape)
    x, bias = torch.ones(2, 3, shape[1]), torch.arange(shape[0], dtype=torch.float32)
    torch.testing.assert_close(ran(x, w, bias), F.linear(x, torch.zeros(shape), bias))


LAYOUTS = {
    "transposed": lambda x: x.t(),
    "every other token": lambda x: x[::2],
    "every other channel": lambda x: x[:, ::2],
    "expanded": lambda x: x[:1].expand(7, -1),
    "permuted": lambda x: x.view(8, 8, 64).permute(1, 2, 0),
}


@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_inputs_of_any_layout_are_only_read(layout, compute):
    base = activation(1.0, 64, 64)
    x, before = layout(base), base.clone()
    w = weight(24, x.shape[-1])
    torch.testing.assert_close(ran(x, w, None, compute), ran(x.contiguous(), w, None, compute))
    assert torch.equal(base, before)


@pytest.mark.parametrize("compute", COMPUTE)
def test_nan_stays_with_its_token(compute):
    x, w = activation(1.0, 3, 64), weight(16, 64)
    x[1, 5] = float("nan")
    got = ran(x, w, None, compute)
    assert got[1].isnan().all()
    assert not got[[0, 2]].isnan().any()


@pytest.mark.parametrize("fill", (0.0, 1e-44, 1e-30, 3e38, float("inf")), ids=str)
def test_extreme_activations_give_no_noise(fill):
    x, w = torch.full((2, 64), fill), quantized(torch.eye(64), E4M3, quant.PerRow())
    got = ran(x, w)
    assert not got.isfinite().any() if math.isinf(fill) else torch.allclose(got, x, rtol=0.04, atol=1e-38)


@pytest.mark.parametrize("mode", (torch.inference_mode, torch.no_grad, torch.enable_grad), ids=lambda m: m.__name__)
def test_the_same_in_every_grad_mode(mode):
    x, w = activation(1.0, 4, 64), weight(16, 64)
    want = ran(x, w)
    with mode():
        assert torch.equal(ran(x, w), want)


@pytest.mark.parametrize("compute", COMPUTE)
def test_gradients_are_those_of_the_dequantized_weight(compute):
    w = weight(24, 64)
    x, bias = (t.requires_grad_() for t in (activation(1.0, 2, 5, 64), torch.zeros(24)))
    ran(x, w, bias, compute).sum().backward()
    torch.testing.assert_close(x.grad, w.dequantize().sum(0).expand_as(x))
    torch.testing.assert_close(bias.grad, torch.full((24,), 10.0))


@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
def test_autocast_decides_the_dtype_as_for_torch(dtype, compute):
    x, w, bias = activation(1.0, 4, 64).to(dtype), weight(16, 64), torch.ones(16, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        want, got = F.linear(x, w.dequantize(dtype), bias), ran(x, w, bias, compute)
    assert got.dtype == want.dtype
    assert sqnr(got, want) >= 28


def test_static_uses_the_scale_of_the_file():
    w = weight(16, 64, granularity=quant.PerTensor())
    scale = torch.tensor(2.0 / E4M3.maximum)
    static = quant.QuantizedWeight(**{**vars(w), "input_scale": scale})
    x = torch.full((3, 64), 5.0)
    got = apply(x, static, None, chosen(static, activation_scale="static"))
    torch.testing.assert_close(got, product(torch.full((3, 64), 2.0), w), rtol=1e-3, atol=1e-3)
    assert sqnr(apply(x, static, None, chosen(static)), product(x, w)) >= 28


def test_a_transform_is_applied():
    plain = weight(16, 64)
    w = quant.QuantizedWeight(**{**vars(plain), "smooth": torch.linspace(0.5, 2, 64), "rotation": 16})
    x = activation(1.0, 3, 64)
    torch.testing.assert_close(apply(x, w, None, chosen(w)), product(x, w))


@pytest.mark.parametrize("shape", ((), (3, 32), (2, 0)), ids=str)
def test_wrong_inputs_are_refused(shape):
    with pytest.raises(quant.Refused, match="64 inputs got activations"):
        ran(torch.zeros(shape), weight(16, 64))


def test_calls_are_counted_but_not_in_a_compiled_graph():
    x, w = activation(1.0, 3, 64), weight(16, 64)
    choice = chosen(w)
    for _ in range(3):
        apply(x, w, None, choice)
    compiled = torch.compile(lambda x: apply(x, w, None, choice), fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), ran(x, w))
    assert choice.calls == {choice.kernel.name: 3}


@pytest.mark.parametrize("compute", COMPUTE)
def test_no_host_synchronisation(compute):
    w = weight(16, 64)
    choice, unreal = chosen(w, compute=compute), faked(w, "cpu")
    with FAKE, torch.no_grad():
        assert apply(fake(activation(1.0, 3, 64), "cpu"), unreal, None, choice).shape == (3, 16)


def test_a_scale_on_another_device_comes_along():
    w = weight(16, 64)
    choice, there = chosen(w, compute="upcast"), faked(w, "cuda")
    with FAKE, torch.no_grad():
        y = apply(fake(activation(1.0, 3, 64), "cuda"), replace(there, scale=fake(w.scale, "cpu")), None, choice)
    assert y.device.type == "cuda"


##### The module


def patched(base=nn.Linear, **options) -> tuple[nn.Linear, quant.QuantizedWeight]:
    linear = base(64, 48, **options)
    w = weight(48, 64)
    quant.patch_linears(nn.ModuleDict({"a": linear}), {"a": w})
    return linear, w


class Doubled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def test_the_weight_reads_as_the_models():
    linear, w = patched(dtype=torch.bfloat16)
    assert (linear.weight.dtype, tuple(linear.weight.shape)) == (torch.bfloat16, (48, 64))
    torch.testing.assert_close(linear.weight.dequantize(), w.dequantize(torch.bfloat16))


def test_a_subclass_keeps_its_own_forward():
    linear, w = patched(Doubled, bias=False)
    x = activation(1.0, 3, 64)
    assert isinstance(linear, Doubled) and isinstance(linear, ScaledLinear)
    assert sqnr(linear(x), 2 * product(x, w)) >= 28
    assert linear.scaled.choice(w, CPU, torch.float32).calls.total() == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_moves_to_a_dtype(dtype):
    linear, w = patched()
    linear.to(dtype)
    x = activation(1.0, 3, 64).to(dtype)
    assert (linear.weight.dtype, linear.bias.dtype, linear(x).dtype) == (dtype, dtype, dtype)
    assert torch.equal(linear.weight._qdata.view(torch.uint8), w.codes.view(torch.uint8))
    assert sqnr(linear(x), product(x, w, linear.bias)) >= 28


def test_a_failed_move_leaves_the_weight():
    linear, _ = patched()
    before = linear.weight
    with pytest.raises(ZeroDivisionError):
        linear._apply(lambda tensor: 1 / 0)
    assert linear.weight is before


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("base", (nn.Linear, Doubled), ids=lambda c: c.__name__)
@pytest.mark.parametrize("copied", (copy.deepcopy, saved), ids=lambda f: f.__name__)
def test_copies_compute_the_same_and_are_independent(copied, base):
    linear, _ = patched(base)
    x = activation(1.0, 3, 64)
    want = linear(x)
    other = copied(linear)
    other.weight._qdata.view(torch.uint8).zero_()
    assert torch.equal(linear(x), want)
    assert torch.equal(copied(linear)(x), want)
    assert type(other) is type(linear)


def test_a_state_dict_is_a_checkpoint_and_comes_back():
    linear, w = patched()
    stored = load(save(linear.state_dict()))
    assert torch.equal(stored["weight"].view(torch.uint8), w.codes.view(torch.uint8))
    assert torch.equal(stored["weight_scale"], w.scale)
    other, kept = patched()
    bytes_before = kept.codes.view(torch.uint8).clone()
    stored["weight"] = torch.zeros_like(stored["weight"].view(torch.uint8)).view(E4M3.dtype)
    assert str(other.load_state_dict(stored)) == "<All keys matched successfully>"
    torch.testing.assert_close(other(torch.ones(64)), stored["bias"])
    assert torch.equal(kept.codes.view(torch.uint8), bytes_before)


@pytest.mark.parametrize(
    "change",
    (
        {"weight_scale": torch.ones(())},
        {"weight": torch.zeros(48, 64)},
        {"comfy_quant": torch.zeros(51, dtype=torch.uint8)},
    ),
    ids=lambda change: next(iter(change)),
)
def test_a_state_dict_of_another_format_is_an_error(change):
    linear, _ = patched()
    with pytest.raises(RuntimeError, match=f"{next(iter(change))}: not of the format and shape"):
        linear.load_state_dict({**linear.state_dict(), **change})


def test_an_unpatched_state_dict_is_an_error():
    linear, _ = patched()
    with pytest.raises(RuntimeError, match="weight"):
        linear.load_state_dict(nn.Linear(64, 48).state_dict())


def test_in_high_precision_activations_are_not_rounded():
    x, w = activation(1.0, 7, 64), weight(33, 64)
    choice, want = chosen(w), F.linear(x, w.dequantize())
    with high_precision():
        got = apply(x, w, None, choice)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert sqnr(apply(x, w, None, choice), want) < 40
    assert choice.calls == {"upcast": 1, choice.kernel.name: 1}
    with pytest.raises(RuntimeError), high_precision():
        raise RuntimeError
    apply(x, w, None, choice)
    assert choice.calls[choice.kernel.name] == 2
