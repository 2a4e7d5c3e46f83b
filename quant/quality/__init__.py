"""How far two models are apart, as figures and as a page, and the card by which a file tells how it was made."""

from __future__ import annotations

from .comparison import compare
from .quality import Quality

__all__ = ["Quality", "compare"]
