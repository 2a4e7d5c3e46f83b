"""Named tensors on disk or at a URL, and what lies beside: read strictly, written whole or not at all by one job."""

from __future__ import annotations

from .open import open_source
from .writer import write_safetensors

__all__ = ["open_source", "write_safetensors"]
