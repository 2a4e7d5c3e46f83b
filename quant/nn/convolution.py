"""Convolutions with INT8 weights: stored as codes and one scale an output channel, dequantized to compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..recipes.policy import Policy
from ..weights.encode import quantize
from ..weights.job import Search

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Dequantize(nn.Module):
    """Parametrization: ``weight = codes * scale`` in dtype and shape of the convolution's own."""

    scale: Tensor

    def __init__(self, scale: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.shape, self.dtype = shape, dtype

    def forward(self, codes: Tensor) -> Tensor:
        return (codes.float() * self.scale).to(self.dtype).view(self.shape)

    def _apply(self, fn: Any, recurse: bool = True) -> Dequantize:
        """Scales stay float32 when the module is cast; the weight that is computed follows the cast."""
        probe = fn(torch.empty(0, dtype=self.dtype, device=self.scale.device))
        self.scale, self.dtype = self.scale.to(probe.device), probe.dtype
        return self


def is_quantized(layer: nn.Module) -> bool:
    """Whether layer is a convolution that was quantized here."""
    return parametrize.is_parametrized(layer, "weight") and isinstance(layer.parametrizations.weight[0], Dequantize)  # type: ignore[union-attr, index]


def quantize_convolution(layer: nn.Module, name: str, policy: Policy, search: Search | None) -> str | None:
    """Give a convolution INT8 weights; why not, or None."""
    weight: Tensor = layer.weight.detach()  # type: ignore[assignment, operator]
    if parametrize.is_parametrized(layer):
        return "computes its weight from others (parametrization or weight norm)"
    found = quantize(weight.flatten(1), policy.format, policy.granularity, name, search)
    codes = nn.Parameter(found.codes, requires_grad=False)
    layer.register_parameter("weight", codes)
    parametrize.register_parametrization(
        layer, "weight", Dequantize(found.scale, weight.shape, weight.dtype), unsafe=True
    )
    return None
