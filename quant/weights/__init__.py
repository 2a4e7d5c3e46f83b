"""What a quantized weight is: formats, granularities, numbers to codes and back."""

from __future__ import annotations

from .encode import quantize
from .formats import FORMATS
from .weight import QuantizedWeight

__all__ = ["FORMATS", "QuantizedWeight", "quantize"]
