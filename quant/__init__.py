"""The engine: reads, quantizes and runs scaled weights. Needs torch and safetensors, never ComfyUI."""

from .formats import FORMATS, Format
from .granularity import GRANULARITIES, PerBlock, PerGroup, PerRow, PerTensor
from .refusal import Refused
from .weight import QuantizedWeight, quantize

__all__ = [
    "FORMATS",
    "GRANULARITIES",
    "Format",
    "PerBlock",
    "PerGroup",
    "PerRow",
    "PerTensor",
    "QuantizedWeight",
    "Refused",
    "quantize",
]
