"""Checkpoints converted, one or many, here or on a cluster: planned as tasks, written in pieces, read back."""

from __future__ import annotations

from .converter import convert

__all__ = ["convert"]
