"""Tasks on all cores, with a bound on the memory that they hold together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from threading import Condition, Event, Lock
from typing import TypeVar

import torch

from ..threads import single_threaded

BUDGET = 256 << 20  # bytes that the running tasks may hold; one that needs more runs while no other does
T = TypeVar("T")


class Stopped(Exception):
    """Another task has failed."""


class MemoryBudget:
    """Bytes that are handed out, and waited for while there are none."""

    def __init__(self, total: int = BUDGET) -> None:
        self.total, self.free, self.changed = total, total, Condition()

    @contextmanager
    def of(self, cost: int) -> Iterator[None]:
        cost = min(cost, self.total)
        with self.changed:
            self.changed.wait_for(lambda: self.free >= cost)
            self.free -= cost
        try:
            yield
        finally:
            with self.changed:
                self.free += cost
                self.changed.notify_all()


class Reporter:
    """Where tasks report what they did, one call at a time; it stops them between their pieces."""

    def __init__(self, advance: Callable[[int], object]) -> None:
        self.advance, self.stopped, self.lock = advance, Event(), Lock()

    def __call__(self, count: int) -> None:
        if self.stopped.is_set():
            raise Stopped
        with self.lock:
            self.advance(count)

    def of(self, task: Future[None]) -> Future[None]:
        """The task, whose failure stops the others at once."""
        task.add_done_callback(self.stop_if_failed)
        return task

    def stop_if_failed(self, task: Future[None]) -> None:
        if not task.cancelled() and task.exception():
            self.stopped.set()


def run_all(
    tasks: Sequence[T],
    work: Callable[[T, Callable[[int], None]], None],
    cost: Callable[[T], int],
    advance: Callable[[int], object],
    threads: int | None = None,
) -> None:
    """Call work on each task; what it passes to its second argument reaches advance, one call at a time.

    The first failure stops the others between their pieces, and is raised.
    """
    budget, report = MemoryBudget(), Reporter(advance)

    def run(task: T) -> None:
        with budget.of(cost(task)):
            if not report.stopped.is_set():
                work(task, report)

    count = threads or cores()
    with single_threaded(), ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [report.of(pool.submit(run, task)) for task in tasks]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            report.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
