"""How long a call takes: warmed up, repeated, with a cold cache on a GPU; the median and the spread."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch

from .results import Timing, spread

WARM_UP = 2
CACHE = 256 * 2**20  # bytes, more than any GPU's L2


def measure(run: Callable[[], object], device: torch.device, budget: float = 0.1, least: int = 5) -> Timing:
    """Time of run, repeated for about budget seconds and at least a few times."""
    for _ in range(WARM_UP):
        run()
    once = by_events if device.type == "cuda" else by_clock
    first = once(run, device)
    count = min(200, max(least, round(budget / max(first, 1e-6))))
    return spread([once(run, device) for _ in range(count)])


def by_clock(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def by_events(run: Callable[[], object], device: torch.device) -> float:
    """By the GPU's own events; what lies in its cache is overwritten first, and done with: behind that work launches
    would cost nothing."""
    flushed(device).zero_()
    torch.cuda.synchronize(device)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


@cache
def flushed(device: torch.device) -> torch.Tensor:
    return torch.empty(CACHE, dtype=torch.int8, device=device)


def graphed(run: Callable[[], object]) -> Callable[[], object]:
    """The same work as a CUDA graph's replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def held(device: torch.device) -> int:
    """Bytes of a GPU's memory that tensors hold now; 0 elsewhere."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak_memory(run: Callable[[], object], device: torch.device, before: int) -> int | None:
    """Bytes that a GPU holds at most while run works, beyond those held before it was built; None elsewhere."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
