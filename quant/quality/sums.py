"""How far tensors are from others, summed up over many of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, log10, nan, sqrt

import torch
from torch import Tensor


@dataclass
class Sums:
    """signal, noise: sums of squares of a and of b - a, over all pairs (a, b) that were added.

    >>> sums = Sums()
    >>> sums.add(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.5]))
    >>> sums.relative, sums.sqnr
    (0.1, 20.0)
    """

    signal: float = 0.0
    noise: float = 0.0

    def add(self, a: Tensor, b: Tensor) -> None:
        """Two tensors of one shape, of any dtype; b may lie on another device."""
        a, b = a.float(), b.to(a.device).float()
        self.signal += squares(a)
        self.noise += squares(b - a)

    @property
    def relative(self) -> float:
        """Norm of all b - a over that of all a."""
        return sqrt(self.noise / self.signal) if self.signal else inf if self.noise else 0.0

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise in dB: infinite without an error, NaN where one of the two is not finite."""
        if not isfinite(self.signal + self.noise):
            return nan
        if not self.noise:
            return inf
        return 10 * log10(self.signal / self.noise) if self.signal else -inf


def squares(x: Tensor) -> float:
    # not in float64, which MPS has not
    return float(torch.linalg.vector_norm(x)) ** 2
