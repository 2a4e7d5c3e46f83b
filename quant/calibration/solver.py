"""One option for each layer with the least sum of costs for a budget of bytes, or the fewest bytes for a cost."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from threading import Lock

from ..errors import Refused

Choice = tuple[float, float]  # bytes, cost


def least_cost(layers: Sequence[Sequence[Choice]], room: float) -> list[int]:
    """For each layer the index of its option: the least sum of costs within room bytes."""
    return solved([[(size, cost) for size, cost in options] for options in layers], room)


def fewest_bytes(layers: Sequence[Sequence[Choice]], limit: float) -> list[int]:
    """The fewest bytes with a sum of costs within limit."""
    return solved([[(cost, size) for size, cost in options] for options in layers], limit)


def solved(layers: Sequence[Sequence[Choice]], room: float) -> list[int]:
    """Each layer's format, of (weight, value), for the least sum of values within a budget of weight, room."""
    if sum(min(weight for weight, _ in options) for options in layers) > room * (1 + 1e-12):
        raise Refused("No choice of formats is small enough; allow more.")
    by_hand = lagrangian(layers, room)
    exact = by_milp(layers, room)
    # the solver's own tolerance may exceed the room by a little
    fits = exact is not None and total(layers, exact, 0) <= room * (1 + 1e-9)
    found = [by_hand, exact] if exact is not None and fits else [by_hand]
    return min(found, key=lambda choice: total(layers, choice, 1))


def total(layers: Sequence[Sequence[Choice]], choice: Sequence[int], part: int) -> float:
    return sum(options[index][part] for options, index in zip(layers, choice, strict=True))


##### By a solver


def by_milp(layers: Sequence[Sequence[Choice]], room: float) -> list[int] | None:
    """As an integer program (HAWQ-V3, Yao et al., arXiv 2011.10680), by scipy's HiGHS; None where that is not there."""
    try:
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_matrix
    except ImportError:
        return None
    flat = [option for options in layers for option in options]
    owner = [row for row, options in enumerate(layers) for _ in options]
    # in units of what there is, so that the solver's tolerances are small beside them
    weights, values = (np.array([option[part] for option in flat], dtype=float) for part in (0, 1))
    one_each = csr_matrix((np.ones(len(flat)), (owner, range(len(flat)))))
    scale = values.max() or 1.0
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(weights[None] / room, -np.inf, 1)]
    with printing_to_stderr():
        found = milp(
            values / scale, constraints=constraints, integrality=np.ones(len(flat)), bounds=Bounds(0, 1),
            options={"time_limit": 30.0, "mip_rel_gap": 1e-6},
        )  # fmt: skip
    if found.x is None:
        return None
    picked = iter(found.x)
    return [max(enumerate([next(picked) for _ in options]), key=lambda pair: pair[1])[0] for options in layers]


STDOUT = Lock()  # of two that move it at once, the second would keep the first one's for good


@contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Where HiGHS may tell of its repairs: it prints them to stdout, which is a command's answer."""
    with STDOUT:
        kept = stdout_moved()
        try:
            yield
        finally:
            if kept is not None:
                os.dup2(kept, 1)
                os.close(kept)


def stdout_moved() -> int | None:
    """A copy of stdout, which now is stderr; None for a process without these streams, which has nobody to confuse."""
    try:
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    except (OSError, ValueError, AttributeError):
        return None
    return kept


##### Without one


def lagrangian(layers: Sequence[Sequence[Choice]], room: float) -> list[int]:
    """The best choice for some price of the weight (Everett 1963), then single steps into the room that is left."""
    low, high = 0.0, 1.0
    while total(layers, priced(layers, high), 0) > room and high < inf:
        high *= 4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if total(layers, priced(layers, middle), 0) <= room else (middle, high)
    return filled(layers, priced(layers, high), room)


def priced(layers: Sequence[Sequence[Choice]], price: float) -> list[int]:
    """Each layer's least value plus price times weight; an infinite price takes the lightest."""
    if price == inf:
        return [min(range(len(options)), key=lambda i: options[i]) for options in layers]
    return [min(range(len(o)), key=lambda i: (o[i][1] + price * o[i][0], o[i][0])) for o in layers]


def filled(layers: Sequence[Sequence[Choice]], choice: list[int], room: float) -> list[int]:
    """Layers moved to better formats within a budget, the most gain for its weight first, until none fits."""
    left = room - total(layers, choice, 0)
    while True:
        steps = [
            ((now[1] - then[1]) / max(then[0] - now[0], 1e-300), row, index, then[0] - now[0])
            for row, options in enumerate(layers)
            for now in [options[choice[row]]]
            for index, then in enumerate(options)
            if then[1] < now[1] and then[0] - now[0] <= left
        ]
        if not steps:
            return choice
        _, row, index, weight = max(steps)
        choice[row], left = index, left - weight
