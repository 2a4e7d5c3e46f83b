"""The one canonical form of a quantized weight, whatever dialect it came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .formats import Format, scale_from_amax
from .granularity import Granularity


@dataclass(frozen=True)
class QuantizedWeight:
    """Codes and scales of one weight: ``W = values(codes) * scale``, always ``[out, in]``.

    format: what a code means; codes: as stored, ``[out, in / format.per_byte]``; scale: float32 of
    ``granularity.scale_shape(shape)``, multiplied, never divided; input_scale: float32 ``[]``, amax of the
    activations / format.maximum, or None where the file has none or a placeholder.
    smooth: ``[in]``, multiplies the activations (AWQ, SmoothQuant), so here the columns of W.
    rotation: group of a ConvRot Hadamard rotation along in, 0 for none.
    """

    format: Format
    codes: Tensor
    scale: Tensor
    granularity: Granularity
    shape: tuple[int, int]
    input_scale: Tensor | None = None
    smooth: Tensor | None = None
    rotation: int = 0

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight ``[out, in]``, computed in float32."""
        weight = self.format.values(self.codes) * self.granularity.expand(self.scale, self.shape)
        if self.rotation:
            weight = unrotate(weight, self.rotation)
        if self.smooth is not None:
            weight = weight * self.smooth
        return weight.to(dtype)

    def to(self, device: torch.device | str) -> QuantizedWeight:
        """The same weight on device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def quantize(weight: Tensor, format: Format, granularity: Granularity) -> QuantizedWeight:
    """Round weight ``[out, in]`` to a float8 format's codes, scaled so that each amax is the largest code."""
    shape = (weight.shape[0], weight.shape[1])
    scale = scale_from_amax(granularity.amax(weight), format.maximum)
    scaled = weight.float() / granularity.expand(scale, shape)
    codes = scaled.clamp(-format.maximum, format.maximum).to(format.dtype)
    return QuantizedWeight(format, codes, scale.reshape(granularity.scale_shape(shape)), granularity, shape)


def unrotate(weight: Tensor, group: int) -> Tensor:
    """Undo a ConvRot rotation of weight ``[out, in]``: the matrix is symmetric and orthogonal, its own inverse."""
    return (weight.reshape(-1, group) @ hadamard(group).to(weight.device)).view_as(weight)


def hadamard(size: int) -> Tensor:
    """Normalized regular Hadamard matrix of a power of 4 (ConvRot, as in comfy-kitchen), ``[size, size]`` float32."""
    corner = torch.ones(4, 4) - 2 * torch.eye(4).flip(1)
    matrix = corner
    while len(matrix) < size:
        matrix = torch.kron(matrix, corner)
    return matrix / size**0.5
