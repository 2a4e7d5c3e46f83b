"""What a quantized weight is: formats, granularities, numbers to codes and back, the tensors it is stored as."""

from __future__ import annotations

from .encode import quantize
from .formats import FORMATS
from .weight import QuantizedWeight

__all__ = ["FORMATS", "QuantizedWeight", "quantize"]
