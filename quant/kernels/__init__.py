"""The ways to compute ``x @ W.T`` from codes and scales, each proven on the device before it runs."""

from __future__ import annotations

from .diagnosis import doctor
from .plan import choose
from .registry import KERNELS

__all__ = ["KERNELS", "choose", "doctor"]
