"""Shares of layers from one disturbed run, beside a run for each layer."""

from __future__ import annotations

from math import isnan, sqrt

import pytest
import torch
from scaled_fp8.quant.calibration.disturbance import (
    Shares,
    added,
    distance,
    fed,
    image_error,
    level,
    nearest,
    spread,
)
from scaled_fp8.quant.calibration.moments import moments_of
from torch import Tensor, nn

STEPS = 10


@pytest.fixture
def model() -> nn.Module:
    """Layers that matter very differently, in a residual stream."""
    torch.manual_seed(0)
    return Stream(torch.tensor([0.02, 0.3, 0.1, 0.5]))


class Stream(nn.Module):
    def __init__(self, gains: Tensor) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in gains)
        self.gains = gains

    def forward(self, x: Tensor) -> Tensor:
        for layer, gain in zip(self.layers, self.gains, strict=True):
            x = x + gain * torch.tanh(layer(x))
        return x


@pytest.fixture
def differences(model: nn.Module) -> dict[str, Tensor]:
    return {name: 0.05 * torch.randn_like(layer.weight) for name, layer in layers(model).items()}


def layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}


@torch.no_grad()
def sampled(call) -> Tensor:
    """An image from some steps of a flow."""
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    for _ in range(STEPS):
        x = x + (call(x) - x) / STEPS
    return x


def alone(model: nn.Module, name: str, difference: Tensor) -> Tensor:
    with added({layers(model)[name]: difference}):
        return sampled(model)


def shares_of(
    differences: dict[str, Tensor], layers: list[str], some: list[str], at: int, local: float = 1.0
) -> Shares:
    """Of layers whose own error is local: of 1.0, a factor is the image's error itself."""
    return Shares(lambda name: (differences[name], local), layers, some, at)


def run(model: nn.Module, shares: Shares) -> Tensor:
    return sampled(lambda x: shares.call(lambda: model(x), layers(model)))


def test_shares_are_those_of_a_run_for_each_layer(model: nn.Module, differences: dict[str, Tensor]) -> None:
    want = sampled(model)
    truth = {name: distance(alone(model, name, one), want) for name, one in differences.items()}
    shares = shares_of(differences, [*differences], [*differences], 6)
    lost = distance(run(model, shares), want)
    found = shares.factors(lost)
    assert found == pytest.approx(truth, rel=0.15)
    assert sqrt(sum(error**2 for error in found.values())) == pytest.approx(lost, rel=0.1)


def test_few_layers_tell_the_level_of_all(model: nn.Module, differences: dict[str, Tensor]) -> None:
    want = sampled(model)
    all_of_them, few = (shares_of(differences, [*differences], some, 6) for some in ([*differences], ["layers.1"]))
    found = [one.factors(distance(run(model, one), want)) for one in (all_of_them, few)]
    assert found[1] == pytest.approx(found[0], rel=0.15)


def test_local_errors_are_divided_by(model: nn.Module, differences: dict[str, Tensor]) -> None:
    shares = shares_of(differences, ["layers.1"], ["layers.1"], 0, local=0.1)
    run(model, shares)
    assert shares.factors(0.3) == pytest.approx({"layers.1": 3.0})


def test_what_reaches_nothing_or_breaks_has_no_factor(model: nn.Module, differences: dict[str, Tensor]) -> None:
    differences |= {"layers.0": torch.zeros(32, 32), "layers.2": torch.full((32, 32), torch.nan)}
    shares = shares_of(differences, [*differences], ["layers.1"], 0)
    run(model, shares)
    assert set(shares.factors(0.1)) == {"layers.1", "layers.3"}
    assert shares.factors(float("nan")) == {}
    assert shares_of(differences, [*differences], ["layers.1"], STEPS).factors(0.1) == {}


def test_an_added_difference_is_another_weight_and_leaves_nothing(model: nn.Module, differences) -> None:
    x, want = torch.randn(5, 32), sampled(model)
    first = layers(model)["layers.0"]
    with added({first: differences["layers.0"]}):
        moved = first(x)
    torch.testing.assert_close(moved, x @ (first.weight + differences["layers.0"]).T)
    assert torch.equal(sampled(model), want)


@pytest.mark.parametrize(("images", "kept"), [(3, 3), (4, 3), (9, 8)])
def test_an_image_that_became_another_is_left_out_where_others_tell(images: int, kept: int) -> None:
    torch.manual_seed(0)
    want = torch.randn(images, 2, 50)
    got = want + 0.01 * torch.randn_like(want)
    got[0] = torch.randn(2, 50)
    truth = distance(got[images - kept :], want[images - kept :])
    assert image_error(got, want) == pytest.approx(truth)


def test_errors_of_few_images_and_of_broken_ones_are_whole() -> None:
    want = torch.ones(5, 10)
    got = want.clone()
    assert image_error(got, want) == 0
    got[0] += 0.1
    assert image_error(got, want) == pytest.approx(distance(got, want))
    assert isnan(image_error(got * torch.nan, want))


@pytest.mark.parametrize(("limit", "count"), [(1000, 10), (50, 5), (35, 3), (1, 1)])
def test_what_is_held_is_bounded_and_spread(limit: int, count: int) -> None:
    chosen = spread({f"layer{index}": 10 for index in range(10)}, limit)
    assert len(chosen) == count
    assert chosen[0] in ("layer0", "layer1", "layer2", "layer5")


def test_what_is_fed_back_is_told_by_the_images_held_out() -> None:
    torch.manual_seed(0)
    weight, spread_out = torch.randn(48, 64), torch.logspace(0, 1, 64)
    batch = torch.randn(8, 40, 64) * spread_out
    difference, error = fed(weight, moments_of(batch))
    truth = distance(batch[-1] @ (weight + difference).T, batch[-1] @ weight.T)
    assert error == pytest.approx(truth, rel=0.2)
    others = torch.randn(400, 64) * spread_out
    by_nearest = distance(others @ (weight + nearest(weight)).T, others @ weight.T)
    assert distance(others @ (weight + difference).T, others @ weight.T) < 0.9 * by_nearest


def test_rounding_to_nearest_is_told_by_what_was_seen() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(48, 64), torch.randn(400, 64) * torch.logspace(0, 1, 64)
    difference = nearest(weight)
    truth = distance(x @ (weight + difference).T, x @ weight.T)
    assert moments_of(x).lost_on_seen(difference, weight) == pytest.approx(truth, rel=0.05)


def test_a_level_is_what_was_lost_over_what_was_told() -> None:
    assert level(0.02, [0.03, 0.04]) == pytest.approx(0.4)
    assert level(0.02, []) == level(0.0, [0.1]) == level(float("nan"), [0.1]) == 1.0
