"""The engine: reads, quantizes and runs scaled weights. Needs torch and safetensors, never ComfyUI."""

from .formats import FORMATS, Format
from .granularity import GRANULARITIES, PerBlock, PerGroup, PerRow, PerTensor
from .patch import Handle, patch_linears, restore_linears
from .refusal import Refused
from .weight import QuantizedWeight, quantize

__all__ = [
    "FORMATS",
    "GRANULARITIES",
    "Format",
    "Handle",
    "PerBlock",
    "PerGroup",
    "PerRow",
    "PerTensor",
    "QuantizedWeight",
    "Refused",
    "patch_linears",
    "quantize",
    "restore_linears",
]
