"""The planner's choice against trying all of them, with scipy and without."""

from __future__ import annotations

import itertools
import os
import random

import pytest
from scaled_fp8.quant import Refused
from scaled_fp8.quant.calibration import solver
from scaled_fp8.quant.calibration.solver import fewest_bytes, lagrangian, least_cost

LAYERS = 6


def problem(seed: int) -> list[list[tuple[float, float]]]:
    """Layers of unlike size whose larger options cost less, most of the time."""
    chance = random.Random(seed)
    found = []
    for _ in range(LAYERS):
        size, weight = chance.choice([1, 4, 9]) * 1000, chance.random() ** 2
        found.append([(size * bits, weight * 4.0**-bits * chance.uniform(0.5, 2)) for bits in (4, 4.5, 8, 16)])
    return found


def every(layers: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """(bytes, cost) of every choice there is."""
    choices = itertools.product(*layers)
    return [(sum(size for size, _ in choice), sum(cost for _, cost in choice)) for choice in choices]


def totals(layers: list[list[tuple[float, float]]], picked: list[int]) -> tuple[float, float]:
    pairs = [options[index] for options, index in zip(layers, picked, strict=True)]
    return sum(size for size, _ in pairs), sum(cost for _, cost in pairs)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.7, 1.0])
def test_no_choice_within_the_budget_is_better(seed: int, share: float) -> None:
    pytest.importorskip("scipy")
    layers = problem(seed)
    choices = every(layers)
    low, high = min(choices)[0], max(choices)[0]
    room = low + share * (high - low)
    size, cost = totals(layers, least_cost(layers, room))
    assert size <= room * (1 + 1e-9)
    assert cost == pytest.approx(min(c for s, c in choices if s <= room), rel=1e-4)
    bytes_, error = totals(layers, fewest_bytes(layers, cost * 1.001))
    assert error <= cost * 1.0011
    assert bytes_ <= size * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_without_scipy_it_is_close(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "by_milp", lambda layers, room: None)
    layers = problem(seed)
    choices = every(layers)
    low, high = min(choices)[0], max(choices)[0]
    for share in (0.05, 0.3, 0.6):
        room = low + share * (high - low)
        size, cost = totals(layers, least_cost(layers, room))
        assert size <= room
        assert cost <= 2 * min(c for s, c in choices if s <= room)


def test_a_larger_budget_never_costs_more() -> None:
    layers = problem(1)
    costs = [
        totals(layers, lagrangian(layers, room * 1000))[1] for room in range(200, 700, 20) if room * 1000 >= 120000
    ]
    assert costs == sorted(costs, reverse=True)


def test_refuses_what_is_too_small() -> None:
    with pytest.raises(Refused, match="small enough"):
        least_cost(problem(0), 1.0)


def test_what_the_solver_prints_is_no_part_of_an_answer(capfd: pytest.CaptureFixture[str], monkeypatch) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    plain = optimize.milp

    def printing(*given: object, **how: object) -> object:
        os.write(1, b"HiGHS: repaired\n")
        return plain(*given, **how)

    monkeypatch.setattr(optimize, "milp", printing)
    least_cost(problem(0), 1e9)
    os.write(1, b"answer\n")
    assert capfd.readouterr() == ("answer\n", "HiGHS: repaired\n")
