"""One model into another file or set of shards, of any size, or many: converted in pieces and read back."""

from __future__ import annotations

from .converter import convert

__all__ = ["convert"]
