"""Sums of squares over many tensors against float64 arithmetic on all of them at once."""

from __future__ import annotations

from math import inf, isnan

import pytest
import torch
from scaled_fp8.quant.quality.sums import Sums


def summed(*pairs) -> Sums:
    sums = Sums()
    for a, b in pairs:
        sums.add(a, b)
    return sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_many_tensors_are_as_one(dtype):
    generator = torch.Generator().manual_seed(1)
    pairs = [(torch.randn(7, 5, generator=generator), torch.randn(7, 5, generator=generator)) for _ in range(4)]
    pairs = [(a.to(dtype), (a + 0.01 * error).to(dtype)) for a, error in pairs]
    a, b = (torch.cat([pair[i] for pair in pairs]).double() for i in (0, 1))
    relative = ((b - a).norm() / a.norm()).item()
    found = summed(*pairs)
    assert found.relative == pytest.approx(relative, rel=1e-5)
    assert found.sqnr == pytest.approx(-20 * torch.log10(torch.tensor(relative)).item(), rel=1e-5)


def test_equal_tensors_have_no_error_at_all():
    a = torch.randn(9)
    assert (summed((a, a.clone())).relative, summed((a, a.clone())).sqnr) == (0.0, inf)


def test_an_error_on_nothing_is_infinite():
    found = summed((torch.zeros(3), torch.ones(3)))
    assert (found.relative, found.sqnr) == (inf, -inf)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_has_no_decibels(value, side):
    pair = [torch.ones(3), torch.ones(3)]
    pair[side] = torch.full((3,), value)
    assert isnan(summed(tuple(pair)).sqnr)
