"""The ways to compute ``x @ W.T``, and activations to codes for them: proven on a device, timed, chosen, and run."""

from __future__ import annotations

from .diagnosis import doctor
from .plan import choose
from .registry import KERNELS

__all__ = ["KERNELS", "choose", "doctor"]
