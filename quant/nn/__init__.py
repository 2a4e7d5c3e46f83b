"""Scaled weights inside torch modules, as resident tensors: quantized there, by torchao too, or patched in and out."""

from __future__ import annotations

from . import operations as operations
from .component import quantize_component
from .patch import patch_linears

__all__ = ["patch_linears", "quantize_component"]
