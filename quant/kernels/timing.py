"""How long something takes on a device: by its own events on a GPU, so that launches ahead of it do not count."""

from __future__ import annotations

from collections.abc import Callable
from time import get_clock_info, perf_counter, thread_time

import torch
from torch import Tensor

# What takes longer is told from what does not by one run; without FP8 units a CPU may take seconds for a product.
PATIENCE = 100.0
# less of a time is no clock's noise
STEADY = 0.95
# Windows counts a thread's time in steps of milliseconds
FINE = get_clock_info("thread_time").resolution < 1e-5


def beside(run: Callable[[], object], base: Callable[[], object], device: torch.device, times: int = 5) -> float:
    """Time of run over that of base: the least of several, taken by turns, after one of each that is not counted.

    As long as either's least is still falling, both are run again: whatever else the machine does would be counted. A
    run that takes more than a tenth of a second is not run again.
    """
    first = milliseconds(run, device)
    milliseconds(base, device)
    mine, its = [first] if first > PATIENCE else [], list[float]()
    while len(its) < times or (falling(mine, times) or falling(its, times)) and sum(mine) + sum(its) < PATIENCE:
        if first <= PATIENCE:
            mine.append(milliseconds(run, device))
        its.append(milliseconds(base, device))
    return min(mine) / min(its)


def falling(found: list[float], times: int) -> bool:
    """Whether the last of these were less than all before them by more than a clock's noise, or there were none."""
    return len(found) <= times or min(found[-times:]) < STEADY * min(found[:-times])


def noise(*shape: int, device: torch.device) -> Tensor:
    """Standard normal float32 values, always the same: a program's own random state stays as it is."""
    return torch.randn(*shape, device=device, generator=torch.Generator(device).manual_seed(0))


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """One run's time; on a GPU the mean of several that are queued together."""
    return by_events(run) if device.type == "cuda" else by_clock(run, device)


def by_events(run: Callable[[], object], repeats: int = 10) -> float:
    """Milliseconds of a run by events of the GPU."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


def by_clock(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of a run; on a CPU of this thread's own work, so that what else the machine does is not counted."""
    clock = thread_time if device.type == "cpu" and FINE else perf_counter
    start = clock()
    run()
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return max(clock() - start, 1e-6) * 1e3
