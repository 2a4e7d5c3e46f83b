"""How far two models are apart, layer by layer, as figures, heat maps and pages, and the card that tells of a file."""

from __future__ import annotations

from .comparison import compare
from .quality import Quality

__all__ = ["Quality", "compare"]
