"""The numeric checks, on weights made here: what they must notice, and what they must let pass."""

from __future__ import annotations

import pytest
import torch
from scaled_fp8.quant.checkpoint import plausibility

E4M3 = torch.float8_e4m3fn
TOP = torch.finfo(E4M3).max


def weights(rows=512, cols=512, seed=0):
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed)) / cols**0.5


def scaled(weight, dim=None):
    """Absmax-scaled codes ``[r, c]`` and their scale; dim: the axis that amax is taken over, None for all."""
    scale = (weight.abs().max() if dim is None else weight.abs().amax(dim, keepdim=True)) / TOP
    return (weight / scale).to(E4M3), scale


SOUND = {
    "weights": weights(),
    "a sound layer with an outlier of 60": weights().index_put((torch.tensor(3), torch.tensor(4)), torch.tensor(60.0)),
    "a small layer of std 1": weights(64, 64) * 8,
    "all zeros": torch.zeros(64, 64),
    "ten elements of std 100": torch.full((10,), 100.0),
}
UNSOUND = {
    "codes scaled per tensor": scaled(weights())[0].float(),
    "codes scaled per row": scaled(weights(), 1)[0].float(),
    # as in LTX-2: an outlier of 17 standard deviations leaves codes of std 27
    "codes of a heavy-tailed layer": scaled(weights().index_put((torch.tensor(3),), torch.tensor(0.73)))[0].float(),
    "reciprocal scale": weights() * 1e5,
    "scaled twice": weights() * 1e-3,
}


@pytest.mark.parametrize("name", SOUND)
def test_lets_sound_weights_pass(name):
    assert plausibility.implausible(SOUND[name].flatten(), 512 if name != "a small layer of std 1" else 64) == ""


@pytest.mark.parametrize("name", UNSOUND)
def test_names_the_std_of_what_cannot_be_weights(name):
    assert "std" in plausibility.implausible(UNSOUND[name].flatten(), 512)


def test_embeddings_may_be_large_but_codes_may_not():
    assert plausibility.implausible(torch.randn(5000) * 12, 512, exempt=True) == ""
    assert plausibility.implausible(torch.randn(5000) * 80, 512, exempt=True)


@pytest.mark.parametrize(
    ("scale", "complaint"),
    [(0.01, ""), (0.0, "zero"), (-0.01, "negative"), (float("nan"), "NaN"), (float("inf"), "infinite")],
)
def test_scales_are_finite_and_positive(scale, complaint):
    found = plausibility.bad_scale(torch.tensor([0.01, scale]))
    assert complaint in found and bool(found) == bool(complaint)


def test_float16_underflow_is_a_zero_scale():
    assert "zero" in plausibility.bad_scale(torch.tensor(1e-8).half())


AXES = {"rows": 1, "columns": 0}


@pytest.mark.parametrize("size", [64, 256, 1024])
@pytest.mark.parametrize("axis", AXES)
def test_top_codes_show_the_axis_of_the_scales(axis, size):
    assert plausibility.scaled_axis(scaled(weights(size, size), AXES[axis])[0]) == axis


def test_top_codes_show_the_axis_below_the_largest_code():
    """Producers that stop at 240, and scales that were rounded to bfloat16."""
    weight = weights(256, 256)
    scale = (weight.abs().amax(1, keepdim=True) / 240).bfloat16().float()
    assert plausibility.scaled_axis((weight / scale).to(E4M3)) == "rows"


def test_top_codes_show_no_axis_of_a_tensor_scale():
    assert plausibility.scaled_axis(scaled(weights())[0]) == ""


def structured(size=1024):
    """A weight whose outputs and inputs differ in size, as trained ones do."""
    return weights(size, size) * torch.linspace(0.2, 2, size)[:, None] * torch.linspace(0.5, 1, size)


@pytest.mark.parametrize("weight", [weights(1024, 1024), structured()], ids=["homogeneous", "structured"])
def test_smoothness_shows_which_way_a_block_grid_lies(weight):
    amax = weight.abs().view(8, 128, 8, 128).amax(dim=(1, 3))
    scale = amax / TOP
    codes = (weight / scale.repeat_interleave(128, 0).repeat_interleave(128, 1)).to(E4M3).float()
    spread = plausibility.block_std(codes, 128, 128)
    assert plausibility.smoother(spread, scale, scale.T) == "first"
    assert plausibility.smoother(spread, scale.T, scale) == "second"
    assert plausibility.smoother(spread, scale, scale) == ""


BYTES = {"float8_e4m3fn": E4M3, "float8_e5m2": torch.float8_e5m2, "float8_e4m3fnuz": torch.float8_e4m3fnuz}


@pytest.mark.parametrize("name", BYTES)
def test_largest_byte_tells_the_format(name):
    dtype = BYTES[name]
    weight = weights()
    codes = (weight / weight.abs().max() * torch.finfo(dtype).max).to(dtype)
    assert plausibility.byte_format(codes.view(torch.uint8)) == name


def test_relabelled_fnuz_bits_are_nan():
    fnuz = torch.float8_e4m3fnuz
    weight = weights()
    codes = (weight / weight.abs().max() * torch.finfo(fnuz).max).to(fnuz)
    assert plausibility.holds_nan(codes.view(E4M3))
    assert not plausibility.holds_nan(scaled(weight)[0])


INPUT_SCALES = {
    "calibrated": (0.0157, True),
    "placeholder": (1.0, False),
    "copy of weight_scale": (0.002, False),
    "zero": (0.0, False),
    "not a number": (float("nan"), False),
    "negative": (-0.0157, False),
    "amax of a million": (2500.0, False),
}


@pytest.mark.parametrize("name", INPUT_SCALES)
def test_input_scale_is_used_only_when_calibrated(name):
    value, used = INPUT_SCALES[name]
    assert plausibility.plausible_input_scale(torch.tensor(value), torch.tensor(0.002), TOP) is used


@pytest.mark.parametrize("name", plausibility.LIMITS)
def test_every_threshold_has_a_reason(name):
    assert plausibility.limit(name) > 0 and len(plausibility.LIMITS[name].reason) > 20


def whole_numbers(weight):
    """INT8 codes of rows that reach 127."""
    return (weight * (127 / weight.abs().amax(1, keepdim=True))).round().to(torch.int8)


def sparse(weight, share):
    return weight * (torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) > share)


SHAPES = {
    "normal": weights(),
    "uniform": torch.rand(512, 512, generator=torch.Generator().manual_seed(2)) * 2 - 1,
    "an outlier in each row": weights().index_put((torch.arange(512), torch.arange(512)), torch.tensor(3.0)),
    "nine of ten are zero": sparse(weights(), 0.9),
    "of one sign": weights().abs(),
    "twice as large below zero": weights() * torch.where(weights() < 0, 2, 1),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", (E4M3, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz), ids=str)
def test_codes_are_not_doubted_for_how_weights_lie(name, dtype):
    floats = (SHAPES[name] * (torch.finfo(dtype).max / SHAPES[name].abs().max())).to(dtype)
    assert not plausibility.contradicted(floats.view(torch.uint8), whole=False)
    assert not plausibility.contradicted(whole_numbers(SHAPES[name]).view(torch.uint8), whole=True)


@pytest.mark.parametrize("name", ("normal", "nine of ten are zero", "twice as large below zero"))
@pytest.mark.parametrize("dtype", (E4M3, torch.float8_e5m2, torch.float8_e4m3fnuz), ids=str)
def test_floats_called_whole_numbers_and_the_reverse_are_noticed(name, dtype):
    floats = (SHAPES[name] * (torch.finfo(dtype).max / SHAPES[name].abs().max())).to(dtype)
    assert plausibility.contradicted(floats.view(torch.uint8), whole=True)
    assert plausibility.contradicted(whole_numbers(SHAPES[name]).view(torch.uint8), whole=False)
