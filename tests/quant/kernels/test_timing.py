"""Times of one thing beside another, by clocks that are given: what else a machine does is not counted."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat

import pytest
import torch
from scaled_fp8.quant.kernels import timing

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Give each its milliseconds, run after run; asked: which ran, in order."""
    asked: list[str] = []

    def give(**times: Iterator[float]) -> list[str]:
        monkeypatch.setattr(timing, "milliseconds", lambda name, device: asked.append(name) or next(times[name]))
        return asked

    return give


def steady(*first: float, then: float) -> Iterator[float]:
    return chain(first, repeat(then))


def test_the_least_of_each_is_compared(clock):
    asked = clock(run=steady(9.0, 3.0, 2.0, 4.0, then=2.5), base=steady(9.0, 1.0, 8.0, then=1.5))
    assert timing.beside("run", "base", CPU, 3) == 2.0
    assert asked[:4] == ["run", "base", "run", "base"]


@pytest.mark.parametrize("slow", (3, 6, 20))
def test_a_machine_that_was_busy_is_waited_for(clock, slow):
    """Its processor was another's for some runs of the one: as long as a time falls, it goes on."""
    falling = (1.5 * 0.9**i for i in range(slow))
    clock(run=chain([2.0], falling, repeat(0.1)), base=steady(then=0.1))
    assert timing.beside("run", "base", CPU, 3) == 1.0


def test_a_time_that_falls_for_ever_ends(clock):
    asked = clock(run=(9.0 * 0.97**i for i in range(10**6)), base=(9.0 * 0.97**i for i in range(10**6)))
    timing.beside("run", "base", CPU, 3)
    assert len(asked) < 1000


def test_what_takes_long_runs_once(clock):
    asked = clock(run=steady(then=500.0), base=steady(then=1.0))
    assert timing.beside("run", "base", CPU, 3) == 500.0
    assert asked.count("run") == 1 and asked.count("base") >= 3
