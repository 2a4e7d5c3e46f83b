"""What the resident form of a scaled weight holds beside its codes, and the QuantizedWeight that both make."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

import torch
from comfy_kitchen.tensor.base import BaseLayoutParams
from torch import Tensor

from ..distributed.gathering import Shard
from ..weights.formats import Format, float8_e4m3fn, inner_scale, power_of_two
from ..weights.granularity import Granularity, PerTensor
from ..weights.job import Job
from ..weights.weight import COMPANIONS, Companions, QuantizedWeight

if TYPE_CHECKING:
    from ..kernels.choice import Choice


@dataclass(frozen=True)
class ScaledParams(Companions, BaseLayoutParams):
    """What a QuantizedWeight holds beside its codes, and the kernel chosen for it (a plan.Choice).

    scale: of a format whose block scales are small floats, these alone (compact_scale); float32 of all others;
    shard: of which weight its rows are a part, where other devices hold the rest.
    """

    format: Format = float8_e4m3fn
    granularity: Granularity = PerTensor()
    shard: Shard | None = None
    # not compared: it counts calls, and torch.compile would take a new count for a new weight
    choice: Choice | None = field(default=None, compare=False)

    def _tensor_fields(self) -> list[str]:
        return [name for name in ("scale", *COMPANIONS) if isinstance(getattr(self, name), Tensor)]


def params_of(
    weight: QuantizedWeight,
    dtype: torch.dtype,
    choice: Choice | None = None,
    shape: tuple[int, ...] | None = None,
) -> ScaledParams:
    """What the resident tensor of a weight holds beside its codes; choice: how its Linear is computed."""
    return ScaledParams(
        scale=compact_scale(weight),
        orig_dtype=dtype,
        orig_shape=shape or weight.shape,
        format=weight.format,
        granularity=weight.granularity,
        **weight.companions(),
        choice=choice,
    )


def scaled_weight(codes: Tensor, params: ScaledParams) -> QuantizedWeight:
    """The weight that a resident tensor holds, of its codes and params."""
    return QuantizedWeight(
        format=params.format,
        codes=codes,
        scale=full_scale(params),
        granularity=params.granularity,
        shape=(params.orig_shape[0], prod(params.orig_shape[1:])),
        **params.companions(),
    )


def compact_scale(weight: QuantizedWeight) -> Tensor:
    """The scales in the bytes that they were made of: e4m3 under an outer scale, e8m0 where they are powers of two."""
    if weight.scale.dtype.itemsize == 1:
        return weight.scale
    if weight.outer is not None and (weight.format.outer_maximum or weight.format.grid):
        return inner_scale(weight.scale, weight.outer)
    return weight.scale.to(torch.float8_e8m0fnu) if weight.format.scale_of is power_of_two else weight.scale


def full_scale(params: ScaledParams) -> Tensor:
    """The float32 scales of a weight, both levels in one."""
    if params.scale.dtype == torch.float8_e4m3fn:
        return params.outer * params.scale.float()
    return params.scale.float()


##### Quantized anew


@dataclass(frozen=True)
class LowRank:
    """What a low-rank weight keeps when it is quantized anew: ``W = rest * smooth + up @ down``."""

    up: Tensor
    down: Tensor

    def rest(self, weight: Tensor) -> Tensor:
        """What of a weight ``[out, in]`` is left for smoothing and codes, float32."""
        return torch.addmm(weight.float(), self.up.float(), self.down.float(), alpha=-1)


def unsmoothed(weight: Tensor, smooth: Tensor | None) -> Tensor:
    """The columns of weight divided by smooth; those that nothing reaches, since smooth is 0 there, are 0."""
    if smooth is None:
        return weight
    return torch.where(smooth == 0, 0, weight.float() / smooth)


def recoded(tensor: Tensor, scale: Tensor, job: Job) -> tuple[Tensor, ScaledParams]:
    """Codes of a tensor for scales that are given, and what the resident form holds beside them."""
    values = tensor.flatten(1).float()
    scale = scale.float().reshape(job.granularity.scale_shape((values.shape[0], values.shape[1])))
    return job.codes(values, scale), ScaledParams(scale, tensor.dtype, tuple(tensor.shape), job.format, job.granularity)
