"""Memory that a CPU's kernels use again and again: what is fresh costs a fault a page, more than arithmetic in it."""

from __future__ import annotations

from math import prod
from threading import local

import torch
from torch import Tensor

# elements that are kept for one use; more are fresh at each call
MOST = 1 << 21


class Own(local):
    """Each thread's own: two that compute at once must not meet."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, torch.dtype], Tensor] = {}


OWN = Own()


def scratch(use: str, dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor ``shape`` for CPU kernels, of any contents; the next of this use, dtype and thread is in its memory."""
    count = prod(shape)
    if count > MOST:
        return torch.empty(shape, dtype=dtype)
    held = OWN.kept.get((use, dtype))
    if held is None or held.numel() < count:
        with torch.inference_mode(False):
            held = OWN.kept[use, dtype] = torch.empty(count, dtype=dtype)
    return held[:count].view(shape)


def pieces(tensor: Tensor, size: int, dim: int = 0) -> tuple[Tensor, ...]:
    """As ``tensor.split``, which takes microseconds also where there is nothing to split."""
    return (tensor,) if tensor.shape[dim] <= size else tensor.split(size, dim)
