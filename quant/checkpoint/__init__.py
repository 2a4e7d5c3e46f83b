"""Which dialect a checkpoint is in, whether it is sound, what tells it from another, and its weights."""

from __future__ import annotations

from .read import inspect_checkpoint, read_checkpoint

__all__ = ["inspect_checkpoint", "read_checkpoint"]
