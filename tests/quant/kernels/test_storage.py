"""What is known of a tensor is asked for once, and again when its contents may be others."""

from __future__ import annotations

import torch
from scaled_fp8.quant.kernels.storage import Derived, Memo


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


def test_what_is_derived_is_made_once_and_freed_with_its_source():
    derived, made, source = Derived(), [], [torch.ones(4)]

    def double() -> torch.Tensor:
        made.append(source[0] * 2)
        return made[-1]

    assert derived.of(source[0], "double", double) is derived.of(source[0].view(4), "double", double)
    assert derived.of(source[0], "other", double) is not made[0]
    source[0].add_(1)
    assert torch.equal(derived.of(source[0], "double", double), torch.full((4,), 4.0))
    assert len(made) == 3
    source.clear()
    assert not derived.known


def test_what_has_no_version_is_derived_each_time():
    derived, made = Derived(), []
    with torch.inference_mode():
        x = torch.ones(4)
        for size in (1, 2):
            x.mul_(size)
            assert torch.equal(derived.of(x, "", lambda: made.append(1) or x * 2), x * 2)
    assert (len(made), derived.known) == (2, {})
