"""What is known of a tensor is asked for once, and again when its contents may be others."""

from __future__ import annotations

import torch
from scaled_fp8.quant.kernels.storage import Memo


def asked(memo: Memo[float], tensor: torch.Tensor, log: list[float]) -> float:
    def ask() -> float:
        log.append(float(tensor.sum()))
        return log[-1]

    return memo.of(tensor, ask)


def test_views_of_the_same_memory_are_asked_once():
    memo, log, x = Memo(), [], torch.ones(4, 4)
    assert [asked(memo, x.view(4, 4), log) for _ in range(3)] == [16.0] * 3
    assert log == [16.0]


def test_a_change_in_place_and_another_part_are_asked_again():
    memo, log, x = Memo(), [], torch.ones(4, 4)
    asked(memo, x, log)
    x[0, 0] = 5
    assert asked(memo, x, log) == 20.0
    assert asked(memo, x[:2], log) == 12.0


def test_memory_given_to_another_tensor_is_asked_again():
    memo, log = Memo(), []
    for value in range(200):
        assert asked(memo, torch.full((64,), float(value)), log) == 64.0 * value


def test_what_is_gone_is_forgotten(monkeypatch):
    monkeypatch.setattr("scaled_fp8.quant.kernels.storage.MOST", 10)
    memo, log, kept = Memo(), [], torch.ones(3)
    asked(memo, kept, log)
    for _ in range(50):
        asked(memo, torch.ones(5), log)
    assert len(memo.known) <= 10
    assert asked(memo, kept, log) == 3.0 and log.count(3.0) == 1
