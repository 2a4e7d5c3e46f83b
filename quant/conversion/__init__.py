"""One file into another, of any size, or many: converted in pieces, read back, compared."""

from __future__ import annotations

from .comparison import compare
from .converter import convert

__all__ = ["compare", "convert"]
