"""The ways to compute ``x @ W.T``: activations and their scales, products of codes; each proven on its device first."""

from __future__ import annotations

from .diagnosis import doctor
from .plan import choose
from .registry import KERNELS

__all__ = ["KERNELS", "choose", "doctor"]
