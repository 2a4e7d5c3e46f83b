"""Tasks on all cores: bounded memory, one failure stops the rest, every step is told once."""

from __future__ import annotations

from threading import Lock

import pytest
import torch
from scaled_fp8.quant.conversion import workers
from scaled_fp8.quant.conversion.workers import run_all


def test_steps_add_up():
    told: list[int] = []
    run_all([3, 4, 5], lambda task, step: step(task), lambda task: 1, told.append, threads=3)
    assert sorted(told) == [3, 4, 5]


def test_running_tasks_hold_no_more_than_the_budget(monkeypatch):
    monkeypatch.setattr(workers.MemoryBudget.__init__, "__defaults__", (10,))
    held, most, lock = 0, 0, Lock()

    def work(task: int, step: object) -> None:
        nonlocal held, most
        with lock:
            held += task
            most = max(most, held)
        with lock:
            held -= task

    run_all([4] * 50, work, lambda task: task, lambda count: None, threads=8)
    assert 0 < most <= 10


def test_a_task_above_the_budget_runs_alone():
    done: list[int] = []
    run_all([1, 2], lambda task, step: done.append(task), lambda task: 1 << 60, lambda count: None, threads=2)
    assert sorted(done) == [1, 2]


def test_the_first_failure_is_raised_and_the_rest_does_not_start():
    done: list[int] = []

    def work(task: int, step: object) -> None:
        if task == 0:
            raise ValueError("broken")
        done.append(task)

    with pytest.raises(ValueError, match="broken"):
        run_all(range(1000), work, lambda task: 1, lambda count: None, threads=1)
    assert len(done) < 999


def test_torch_has_its_threads_again():
    before = torch.get_num_threads()
    run_all([1], lambda task, step: None, lambda task: 1, lambda count: None)
    assert torch.get_num_threads() == before
