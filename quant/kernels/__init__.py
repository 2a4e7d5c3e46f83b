"""The ways to compute ``x @ W.T``, activations to codes and back: proven and timed on their device, chosen, and run."""

from __future__ import annotations

from .diagnosis import doctor
from .plan import choose
from .registry import KERNELS

__all__ = ["KERNELS", "choose", "doctor"]
