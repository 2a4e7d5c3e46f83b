"""Rounding with error feedback: each input's rounding error is made good by those that are rounded after it.

GPTQ (Frantar et al., arXiv 2210.17323): inputs in order of their energy, moments dampened, scales fixed before.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DAMPING = 0.01  # of the mean square, added to each input's
ATTEMPTS = 4  # with ten times the damping each, where rounding made the moments indefinite
BATCH = 128  # inputs whose corrections are carried to all later ones at once
Snap = Callable[[int, Tensor], Tensor]  # (input, its column [out]) -> the nearest values of the format


def fed_back(values: Tensor, squares: Tensor, snap: Snap) -> Tensor | None:
    """Values ``[out, size]`` rounded by snap, with the least error of the output that the order of inputs allows.

    squares: second moments ``[size, size]`` of the inputs; None where they have no inverse.
    """
    energy = squares.diagonal()
    order = energy.argsort(descending=True)
    inverse = inverse_root(squares[order][:, order])
    if inverse is None:
        return None
    left, rounded = values[:, order], torch.empty_like(values)
    for start in range(0, left.shape[1], BATCH):
        stop = min(start + BATCH, left.shape[1])
        errors = round_batch(left, rounded, inverse, (start, stop), order, snap)
        left[:, stop:] -= errors @ inverse[start:stop, stop:]
    return rounded


def round_batch(
    left: Tensor, rounded: Tensor, inverse: Tensor, span: tuple[int, int], order: Tensor, snap: Snap
) -> Tensor:
    """Round the inputs of span one by one; their errors ``[out, stop - start]`` in units of the inverse's diagonal."""
    start, stop = span
    batch = left[:, start:stop]
    errors = torch.empty_like(batch)
    for at, column in enumerate(order[start:stop].tolist()):
        here = start + at
        rounded[:, column] = snap(column, batch[:, at])
        errors[:, at] = (batch[:, at] - rounded[:, column]) / inverse[here, here]
        batch[:, at + 1 :] -= errors[:, at : at + 1] * inverse[here, here + 1 : stop]
    return errors


def inverse_root(squares: Tensor) -> Tensor | None:
    """Upper Cholesky factor of the inverse of the dampened moments; None where there is none."""
    mean = squares.diagonal().mean()
    if not mean > 0:
        return None
    for attempt in range(ATTEMPTS):
        dampened = squares.clone()
        dampened.diagonal().add_(mean * DAMPING * 10**attempt)
        root, failed = torch.linalg.cholesky_ex(dampened)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(root), upper=True)
            if not failed:
                return upper
    return None
