"""Kernels that raised in a forward although they were proven: not asked again in this process."""

from __future__ import annotations

import torch

from ..errors import named
from .registry import Kernel
from .rules import Workload

Place = tuple[str, str, torch.device]
# What one kernel said of one format on one device
DEMOTED: dict[Place, str] = {}


def place(kernel: Kernel, layer: Workload) -> Place:
    return (kernel.name, layer.format.name, layer.device)


def demoted(kernel: Kernel, layer: Workload) -> str | None:
    """Why kernel is not asked any more, or None."""
    return DEMOTED.get(place(kernel, layer))


def demote(kernel: Kernel, layer: Workload, problem: Exception) -> None:
    DEMOTED[place(kernel, layer)] = f"raised in a forward on {layer.device.type}: {named(problem)}"


def rehabilitate(kernel: Kernel, layer: Workload) -> None:
    """It was not the kernel: every other raised too."""
    DEMOTED.pop(place(kernel, layer), None)


def passing(problem: Exception) -> bool:
    """Whether it says nothing about the kernel: memory that was full may be free the next time."""
    return isinstance(problem, (MemoryError, torch.OutOfMemoryError))
