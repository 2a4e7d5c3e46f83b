"""Scaled weights on their way into a model: what takes them for plain tensors gets them dequantized, and is noted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from torch import Tensor
from torch.nn import Parameter

from ...quant.nn.tensor import as_class, is_scaled
from .linear import Scaled
from .plan import NOTES

Note = Callable[[str], None]


class Arriving(QuantizedTensor):
    """A scaled weight. origin: its name in the file; note: told that name when the weight is dequantized.

    Models hold matrices that are no Linear's too: tables, gates, motion encoders; and ComfyUI splits some weights by
    plain arithmetic. Neither knows of scales.
    """

    origin: str
    note: Note

    def dequantize(self) -> Tensor:
        self.note(self.origin)
        return super().dequantize()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default and not isinstance(args[0], QuantizedTensor):
            return cls._dequant_and_fallback(func, args, kwargs or {})
        out = super().__torch_dispatch__(func, types, args, kwargs)
        return arriving(out, args[0].origin, args[0].note) if type(out) is QuantizedTensor else out


def arriving(tensor: QuantizedTensor, origin: str, note: Note) -> Arriving:
    """The same weight, which notes that it was dequantized."""
    made = as_class(tensor, Arriving)
    made.origin, made.note = origin, note
    return made


def settle_arrivals(model: ModelPatcher, notes: list[str]) -> None:
    """Dequantize what ComfyUI assigned to modules that cannot run it, and keep all the names for the report."""
    for module in model.model.modules():
        strays = [(name, p) for name, p in module.named_parameters(recurse=False) if is_scaled(p)]
        for name, parameter in strays if not isinstance(module, Scaled) else ():
            setattr(module, name, Parameter(parameter.data.dequantize(), requires_grad=False))
    model.set_attachments(NOTES, sorted(set(notes)))
