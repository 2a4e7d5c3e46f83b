"""Named tensors on disk: read strictly, known again by a fingerprint, written whole or not at all."""

from __future__ import annotations

from .open import open_source
from .writer import write_safetensors

__all__ = ["open_source", "write_safetensors"]
