"""What a checkpoint says of itself, which dialect it is in, whether it is sound, its fingerprint, and its weights."""

from __future__ import annotations

from .read import inspect_checkpoint, read_checkpoint

__all__ = ["inspect_checkpoint", "read_checkpoint"]
