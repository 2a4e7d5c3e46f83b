"""What the resident form of a scaled weight holds beside its codes, and the QuantizedWeight that both make."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from comfy_kitchen.tensor.base import BaseLayoutParams
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..distributed.gathering import Shard
from ..weights.compact import compact_scale
from ..weights.formats import Format, float8_e4m3fn
from ..weights.granularity import Granularity, PerTensor
from ..weights.job import Job
from ..weights.weight import ARRANGED, COMPANIONS, Arranged, Companions, QuantizedWeight, float_scale

if TYPE_CHECKING:
    from ..kernels.choice import Choice


@dataclass(frozen=True)
class ScaledParams(Companions, Arranged, BaseLayoutParams):
    """What a QuantizedWeight holds beside its codes, and the kernel chosen for it (a plan.Choice).

    scale: of a format whose block scales are small floats, these alone (compact_scale); float32 of all others; what
    the chosen kernel reads in another way moves, is counted and is freed with the weight; shard: of which weight its
    rows are a part, where other devices hold the rest.
    """

    format: Format = float8_e4m3fn
    granularity: Granularity = PerTensor()
    shard: Shard | None = None
    # not compared: it counts calls, and torch.compile would take a new count for a new weight
    choice: Choice | None = field(default=None, compare=False)

    def _tensor_fields(self) -> list[str]:
        return [name for name in ("scale", *COMPANIONS, *ARRANGED) if isinstance(getattr(self, name), Tensor)]

    def copy_from(self, src: ScaledParams, non_blocking: bool = False) -> None:
        """In place, as comfy-kitchen does; what only one of both has arranged is left out."""
        own, other = self.arrangement(), src.arrangement()
        left_out: dict[str, Any] = {name: None for name in ARRANGED if own[name] is None or other[name] is None}
        for name in left_out:
            object.__setattr__(self, name, None)
        src = replace(src, **left_out)
        super().copy_from(src, non_blocking)


def params_of(
    weight: QuantizedWeight,
    dtype: torch.dtype,
    choice: Choice | None = None,
    shape: tuple[int, ...] | None = None,
) -> ScaledParams:
    """What the resident tensor of a weight holds beside its codes; choice: how its Linear is computed."""
    weight = weight if choice is None else choice.arranged(weight)
    return ScaledParams(
        scale=compact_scale(weight),
        orig_dtype=dtype,
        orig_shape=shape or weight.shape,
        format=weight.format,
        granularity=weight.granularity,
        **weight.companions(),
        **weight.arrangement(),
        choice=choice,
    )


def scaled_weight(codes: Tensor, params: ScaledParams) -> QuantizedWeight:
    """The weight as it is held: with the scales in the bytes that hold them."""
    return QuantizedWeight(
        format=params.format,
        codes=codes,
        scale=params.scale,
        granularity=params.granularity,
        shape=(params.orig_shape[0], prod(params.orig_shape[1:])),
        **params.companions(),
    )


def full_scale(params: ScaledParams) -> Tensor:
    """The float32 scales of a weight, both levels in one."""
    return float_scale(params.scale, params.outer)


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


# codes -> the name of the layer they are of, for messages; no part of the tensor, which torch.compile compares
NAMES = WeakTensorKeyDictionary()


def layer_of(tensor: Any) -> str:
    return str(NAMES.get(tensor._qdata, ""))
