"""Moments against float64 arithmetic; rounding with feedback against rounding to nearest on inputs it has not seen."""

from __future__ import annotations

import pytest
import torch
from scaled_fp8.quant import FORMATS
from scaled_fp8.quant.calibration import rounding
from scaled_fp8.quant.calibration.feedback import fed_back
from scaled_fp8.quant.calibration.moments import Moments, block_size, moments_of, stored_bytes
from scaled_fp8.quant.calibration.rounding import calibrated, rounded
from scaled_fp8.quant.weights.encode import quantize
from scaled_fp8.quant.weights.job import Search
from scaled_fp8.quant.weights.rotation import rotate
from torch import Tensor

CASES = [
    pytest.param(format, granularity, id=f"{format.name}-{granularity.name}")
    for format in FORMATS.values()
    for granularity in format.granularities
]
FED = ("float8_e4m3fn", "int8", "int8_convrot", "nvfp4", "int4", "int4_convrot")


def inputs(seed: int, rows: int = 1500, width: int = 512) -> Tensor:
    """Inputs with what makes feedback worth it: strong correlations, and channels of unlike size."""
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, width)
    noise = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return noise @ mix.T * torch.logspace(-1, 1, width)


def counted(x: Tensor) -> Tensor:
    """What each row counts, float64 ``[rows, 1]``: one over how many of those it is compared with are like it."""
    rows = x.double() / x.double().norm(dim=1, keepdim=True)
    like = ((rows @ rows[:: -(-len(rows) // 512)].T) ** 8).sum(1, keepdim=True)
    shares = 1 / like.clamp(min=1)
    return shares / shares.mean()


def relative(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.fixture(scope="module")
def weight() -> Tensor:
    return torch.randn(96, 512, generator=torch.Generator().manual_seed(9)) * 0.05


@pytest.fixture(scope="module")
def seen() -> Moments:
    return moments_of(inputs(1))


@pytest.mark.parametrize("size", [4096, 256, 192])
def test_moments_are_sums_of_products(size: int) -> None:
    x = inputs(1, 300)
    found, exact = moments_of(x, size), x.double().T @ (counted(x) * x.double())
    for block, at in zip(found.squares, range(0, 512, found.size), strict=True):
        expected = exact[at : at + found.size, at : at + found.size]
        assert relative(block[: len(expected), : len(expected)], expected) < 1e-5
        assert not block[len(expected) :].any()
    assert found.amax == x.abs().amax()
    assert found.rows == 300


def test_runs_add_up() -> None:
    x = inputs(1, 400)
    parts = moments_of(x[:150]) + moments_of(x[150:])
    exact = sum(part.double().T @ (counted(part) * part.double()) for part in (x[:150], x[150:]))
    assert relative(parts.squares[0], exact) < 1e-5
    assert (parts.rows, parts.amax) == (400, x.abs().amax())


@pytest.mark.parametrize("seen", [5000, 64], ids=["all", "some"])
def test_rows_that_repeat_count_as_one(seen: int) -> None:
    few = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).Q
    padded = torch.cat([few[:8], few[:1].expand(1900, 16), few[8:]])
    found = moments_of(padded, seen=seen)
    # the padding is compared with a quarter of itself, so that it counts for some rows, and not for two thousand
    shares = torch.linalg.eigvalsh(found.squares[0].double()) / found.rows * 16
    assert shares.min() > 0.5 and shares.max() < 4.5
    assert found.rows == min(seen, len(padded))


def test_of_many_rows_an_even_part_is_summed_and_amax_is_of_all() -> None:
    x = torch.ones(5000, 8)
    x[-1, 3] = -7
    found = moments_of(x, seen=1000)
    assert found.rows == 1000
    torch.testing.assert_close(found.mean_squares()[:3], torch.ones(3))
    assert found.amax == 7


def test_energy_is_the_mean_square_of_the_output(weight: Tensor, seen: Moments) -> None:
    x = inputs(1)
    expected = (counted(x) * (x.double() @ weight.double().T).square()).sum(1).mean()
    assert seen.energy(weight) == pytest.approx(float(expected), rel=1e-4)


def test_energy_of_a_rotated_weight_by_rotated_moments_is_the_same(weight: Tensor, seen: Moments) -> None:
    assert seen.rotated(256).energy(rotate(weight, 256)) == pytest.approx(seen.energy(weight), rel=1e-3)


def test_blocks_shrink_until_they_fit() -> None:
    layers = [3072] * 10 + [12288] * 5
    for limit in (10**10, 10**9, 10**8):
        size = block_size(layers, limit)
        assert sum(stored_bytes(count, size) for count in layers) <= limit or size == 256
        assert size == 4096 or sum(stored_bytes(count, size * 2) for count in layers) > limit


def output_error(x: Tensor, got: Tensor, weight: Tensor) -> float:
    return float((x @ (got - weight).T).norm() / (x @ weight.T).norm())


@pytest.mark.parametrize(("format", "granularity"), CASES)
@pytest.mark.parametrize("size", [4096, 256])
def test_output_error_falls_on_inputs_it_has_not_seen(weight: Tensor, format, granularity, size: int) -> None:
    found = calibrated(weight, format, granularity, moments_of(inputs(1), size))
    other = inputs(2)
    ours = output_error(other, found.weight.dequantize(), weight)
    plain = output_error(other, quantize(weight, format, granularity).dequantize(), weight)
    assert ours <= plain * 1.02
    if format.name in FED:
        assert ours < 0.75 * plain
        assert found.way == "error feedback"


@pytest.mark.parametrize(("format", "granularity"), CASES)
def test_error_it_tells_is_that_of_the_output(weight: Tensor, seen: Moments, format, granularity) -> None:
    found = calibrated(weight, format, granularity, seen)
    x = inputs(1) * counted(inputs(1)).sqrt().float()
    assert found.error == pytest.approx(output_error(x, found.weight.dequantize(), weight), rel=1e-2)
    assert found.error <= found.nearest


def test_kept_only_where_it_lowers_the_error(weight: Tensor) -> None:
    """Moments of white noise: no input can make good for another."""
    white = Moments(torch.eye(512).unsqueeze(0) * 100, torch.ones(()), 100, 512)
    found = calibrated(weight, FORMATS["int8"], FORMATS["int8"].granularities[0], white)
    assert found.way == "to nearest"
    assert torch.equal(found.weight.codes, quantize(weight, FORMATS["int8"]).codes)


def test_feedback_is_the_textbook_one(weight: Tensor) -> None:
    """Against Optimal Brain Quantization done literally: the inverse of what is left is computed anew at each input."""
    x = inputs(1, 400, 64)
    squares, weight = (x.T @ x).double(), weight[:8, :64].double()
    got = fed_back(weight.clone(), squares, lambda at, column: (column * 20).round() / 20)
    left, dampened = weight.clone(), squares + 0.01 * squares.diagonal().mean() * torch.eye(64)
    expected = torch.empty_like(left)
    order = squares.diagonal().argsort(descending=True).tolist()
    for done, at in enumerate(order):
        rest = order[done:]
        inverse = torch.linalg.inv(dampened[rest][:, rest])
        expected[:, at] = (left[:, at] * 20).round() / 20
        error = (left[:, at] - expected[:, at]) / inverse[0, 0]
        left[:, rest] -= error[:, None] * inverse[0]
    torch.testing.assert_close(got, expected)


def test_dead_inputs_and_no_inputs_do_no_harm(weight: Tensor) -> None:
    x = inputs(1)
    x[:, 100:300] = 0
    found = calibrated(weight, FORMATS["nvfp4"], FORMATS["nvfp4"].granularities[0], moments_of(x))
    assert found.weight.dequantize().isfinite().all()
    nothing = Moments(torch.zeros(1, 512, 512), torch.zeros(()), 0, 512)
    found = calibrated(weight, FORMATS["nvfp4"], FORMATS["nvfp4"].granularities[0], nothing)
    assert found.weight.dequantize().isfinite().all()


def test_fp8_gets_the_static_scale_of_its_activations(weight: Tensor, seen: Moments) -> None:
    found = calibrated(weight, FORMATS["float8_e4m3fn"], FORMATS["float8_e4m3fn"].granularities[0], seen)
    assert found.weight.input_scale == seen.amax / 448
    assert calibrated(weight, FORMATS["int8"], FORMATS["int8"].granularities[0], seen).weight.input_scale is None


##### Images held out


def batch(seed: int, images: int, tokens: int = 40) -> Tensor:
    """Inputs ``[images, tokens, 512]`` of which those of one image are alike, as from step to step."""
    each = inputs(seed, images).unsqueeze(1)
    return each + 0.3 * inputs(seed + 1, images * tokens).unflatten(0, (images, tokens))


@pytest.mark.parametrize(
    ("images", "conditionings", "left_out"),
    [(16, 1, [14, 15]), (4, 1, [3]), (3, 1, []), (8, 2, [3, 7]), (4, 2, []), (9, 2, [8])],
)
def test_last_images_are_held_out_whole(images: int, conditionings: int, left_out: list[int]) -> None:
    """Each image with an input of its own, so that moments show which ones were summed."""
    x = torch.zeros(images, 5, 16)
    for image in range(images):
        x[image, :, image] = 1 + image
    found = moments_of(x, conditionings=conditionings)
    seen, told = found.squares[0].diagonal(), found.held_out
    assert [at for at in range(images) if seen[at] == 0] == left_out
    assert ([] if told is None else [at for at in range(images) if told[:, at].any()]) == left_out
    assert found.amax == images


def test_a_sketch_tells_the_error_of_the_rows_it_is_of(weight: Tensor) -> None:
    x = batch(1, 32)
    found = moments_of(x, seen=10**6)
    kept = x[28:].reshape(-1, 512) * counted(x.reshape(-1, 512)).view(32, 40, 1)[28:].reshape(-1, 1).sqrt().float()
    for seed in range(5):
        moved = weight + torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * 0.01
        assert found.lost(moved - weight, weight) == pytest.approx(output_error(kept, moved, weight), rel=0.15)


@pytest.mark.parametrize("name", ["nvfp4", "int8", "float8_e4m3fn"])
def test_error_it_tells_is_that_of_other_images(weight: Tensor, name: str) -> None:
    """Which is far above that on the images that rounding was fitted to."""
    calls = [batch(seed, 32) for seed in range(10, 30, 2)]
    known = sum((moments_of(x) for x in calls[1:]), moments_of(calls[0]))
    found = calibrated(weight, FORMATS[name], FORMATS[name].granularities[0], known)
    moved = found.weight.dequantize()
    others = output_error(torch.cat([batch(seed, 32) for seed in range(50, 70, 2)]).reshape(-1, 512), moved, weight)
    assert found.way == "error feedback"
    assert found.error == pytest.approx(others, rel=0.15)
    fitted = (known.energy(moved - weight) / known.energy(weight)) ** 0.5
    assert fitted < 0.8 * others


def test_sketches_of_runs_add_up_and_those_without_leave_them(weight: Tensor) -> None:
    first, second, alone = moments_of(batch(1, 8)), moments_of(batch(3, 8)), moments_of(batch(5, 2))
    both = first + alone + second
    assert alone.held_out is None and first.held_out is not None and second.held_out is not None
    torch.testing.assert_close(both.held_out, first.held_out + second.held_out)
    assert torch.equal(moments_of(batch(1, 8)).held_out, first.held_out)
    assert alone.lost(weight * 0.1, weight) == pytest.approx(0.1, rel=1e-3)


##### Where nothing is known of the inputs


def learned(rows: int = 1500) -> Tensor:
    """A weight as training leaves it: a sum of outer products with inputs, and some noise."""
    draw = torch.Generator().manual_seed(4)
    weight = torch.randn(96, rows, generator=draw) @ inputs(1, rows)
    return weight / weight.norm() + torch.randn(96, 512, generator=draw) / (4 * (96 * 512) ** 0.5)


def lost(found: Tensor, weight: Tensor) -> float:
    """Relative error of the output on inputs that are not those of learned."""
    return relative(inputs(2) @ found.T, inputs(2) @ weight.T)


@pytest.mark.parametrize("size", [1024, 256], ids=["whole", "blocks"])
def test_a_trained_weight_stands_in_for_its_inputs(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "OWN", size)
    weight, format = learned(), FORMATS["int4_convrot"]
    found, said, gain = rounded(weight, format, format.granularities[0], None, "a")
    searched = quantize(weight, format, search=Search())
    assert lost(found.dequantize(), weight) < 0.9 * lost(searched.dequantize(), weight)
    assert torch.equal(found.scale, searched.scale) and (said, gain) != ("", None)


def test_a_weight_of_noise_is_rounded_as_well_as_before(weight: Tensor) -> None:
    format = FORMATS["int4_convrot"]
    found = rounded(weight, format, format.granularities[0], None, "a")[0]
    searched = quantize(weight, format, search=Search()).dequantize()
    assert relative(found.dequantize(), weight) < 1.1 * relative(searched, weight)


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if not format.feeds_itself])
def test_others_are_as_they_are_searched(name: str, weight: Tensor) -> None:
    format = FORMATS[name]
    found = rounded(weight, format, format.granularities[0], None, "a")[0]
    assert torch.equal(found.dequantize(), quantize(weight, format, search=Search()).dequantize())
