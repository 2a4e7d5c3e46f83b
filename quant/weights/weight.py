"""The one canonical form of a quantized weight, whatever dialect it came from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .formats import Format, inner_scale
from .granularity import Granularity
from .rotation import rotate


@dataclass(frozen=True, kw_only=True)
class Companions:
    """What may belong to a weight beside its codes and scales, as QuantizedWeight says; all None where nothing does."""

    input_scale: Tensor | None = None
    smooth: Tensor | None = None
    rotation: int = 0
    outer: Tensor | None = None
    codebook: Tensor | None = None
    offset: Tensor | None = None
    up: Tensor | None = None
    down: Tensor | None = None

    def companions(self) -> dict[str, Any]:
        """Name -> value, for another that holds the same."""
        return {name: getattr(self, name) for name in COMPANIONS}


COMPANIONS = tuple(field.name for field in fields(Companions))


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """A weight's parts as a kernel that was chosen for it reads them; None where that is how they are stored.

    arranged: the scales, in the kernel's order; filled: the codes, with zeros up to what its GEMM takes multiples of;
    given: input_scale for the codes that activations get, whatever format the weight has.
    """

    arranged: Tensor | None = None
    filled: Tensor | None = None
    given: Tensor | None = None

    def arrangement(self) -> dict[str, Any]:
        """Name -> part, for another that holds the same."""
        return {name: getattr(self, name) for name in ARRANGED}


ARRANGED = tuple(field.name for field in fields(Arranged))


@dataclass(frozen=True)
class QuantizedWeight(Companions, Arranged):
    """Codes and scales of one weight: ``W = values(codes) * scale``, always ``[out, in]``.

    format: what a code means; codes: as stored, ``[out, in / format.per_byte]``; scale: float32 of
    ``granularity.scale_shape(shape)``, multiplied, never divided; input_scale: float32 ``[]``, amax of the
    activations / format.maximum, or None where the file has none or a placeholder.
    smooth: ``[in]``, multiplies the activations (AWQ, SmoothQuant), so here the columns of W.
    rotation: group of a ConvRot Hadamard rotation along in, 0 for none.
    offset: what is added to values times scale, shaped as the scale, or None (AWQ's zero points).
    up, down: ``[out, rank]`` and ``[rank, in]``, whose product is added to all of it (SVDQuant), or None.
    outer: the scale one level above, ``[]`` (NVFP4) or ``[out, 1]`` (INT4); scale is the product of both.
    codebook: ``[16]``, the values of 4-bit codes that are not the format's own.
    arranged, filled, given: its scales, its codes and what activations are scaled by, as the kernel that was chosen for
    this weight reads them; None where that is how they are stored (Arranged).
    """

    format: Format
    codes: Tensor
    scale: Tensor
    granularity: Granularity
    shape: tuple[int, int]

    @property
    def transformed(self) -> bool:
        """Whether the weight is more than values times scales."""
        return self.rotation > 0 or self.augmented

    @property
    def augmented(self) -> bool:
        """Whether smoothing, offsets or a low-rank part belong to it."""
        return any(part is not None for part in (self.smooth, self.offset, self.up))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight ``[out, in]``, computed in float32."""
        weight = self.scaled_values()
        if self.rotation:
            weight = rotate(weight, self.rotation)
        if self.smooth is not None:
            weight = weight * self.smooth
        if self.up is not None and self.down is not None:
            weight = torch.addmm(weight, self.up.float(), self.down.float())
        return weight.to(dtype)

    def scaled_values(self) -> Tensor:
        """Values times scales plus offset, before rotation and smoothing are undone."""
        values = self.format.values(self.codes, self.codebook)
        if not self.format.grid or self.outer is None:
            scaled = values.mul_(self.granularity.expand(self.scale, self.shape))
            return scaled if self.offset is None else scaled.add_(self.granularity.expand(self.offset, self.shape))
        inner = inner_scale(self.scale, self.outer).float()
        on_grid = values.mul_(self.granularity.expand(inner, self.shape)).round_().clamp_(-127, 127)
        return on_grid.mul_(self.outer)

    def expanded(self) -> QuantizedWeight:
        """Itself with float32 scales, where it is held with the bytes that they were made of."""
        return self if self.scale.dtype == torch.float32 else replace(self, scale=float_scale(self.scale, self.outer))

    def to(self, device: torch.device | str) -> QuantizedWeight:
        """The same weight on device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def float_scale(scale: Tensor, outer: Tensor | None) -> Tensor:
    """Float32 scales of those that a weight is held with, both levels in one."""
    return outer * scale.float() if outer is not None and scale.dtype == torch.float8_e4m3fn else scale.float()
