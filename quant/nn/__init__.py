"""Scaled weights inside torch modules: quantized there, also by torchao, or patched in and out without a trace."""

from __future__ import annotations

from . import operations as operations
from .component import quantize_component
from .patch import patch_linears

__all__ = ["patch_linears", "quantize_component"]
