"""The resident form of a scaled weight: a comfy-kitchen layout for every granularity.

A Parameter that wraps it keeps one byte a weight, moves and pins as one tensor, and reads from outside as the
model's own dtype and shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

import torch
from comfy_kitchen.tensor import QuantizedLayout, QuantizedTensor, register_layout_class
from comfy_kitchen.tensor.base import BaseLayoutParams
from torch import Tensor

from ..weights.encode import Job, generator, quantize
from ..weights.formats import Format, float8_e4m3fn
from ..weights.granularity import Granularity, PerTensor
from ..weights.weight import QuantizedWeight

if TYPE_CHECKING:
    from ..kernels.plan import Choice


class ScaledWeightLayout(QuantizedLayout):
    """A QuantizedWeight as a comfy-kitchen tensor; any operation without a kernel sees the dequantized weight."""

    NAME = "ScaledWeightLayout"

    @dataclass(frozen=True)
    class Params(BaseLayoutParams):
        """What a QuantizedWeight holds beside its codes, and the kernel chosen for it (a plan.Choice)."""

        format: Format = float8_e4m3fn
        granularity: Granularity = PerTensor()
        input_scale: Tensor | None = None
        smooth: Tensor | None = None
        rotation: int = 0
        outer: Tensor | None = None
        codebook: Tensor | None = None
        # not compared: it counts calls, and torch.compile would take a new count for a new weight
        choice: Choice | None = field(default=None, compare=False)

        def _tensor_fields(self) -> list[str]:
            names = ("scale", "input_scale", "smooth", "outer", "codebook")
            return [name for name in names if getattr(self, name) is not None]

    @classmethod
    def quantize(
        cls,
        tensor: Tensor,
        scale: Tensor | str | None = None,
        format: Format = float8_e4m3fn,
        granularity: Granularity | None = None,
        stochastic_rounding: int | None = 0,
        inplace_ops: bool = False,
        input_scale: Tensor | None = None,
        choice: Choice | None = None,
    ) -> tuple[Tensor, Params]:
        """Quantize ``[out, in]`` with new scales; a seed > 0 rounds stochastically, as ComfyUI does for LoRA."""
        granularity, seed = granularity or PerTensor(), stochastic_rounding or 0
        if not isinstance(scale, Tensor):
            weight = quantize(tensor.flatten(1), format, granularity, seed=seed)
            return weight.codes, params_of(weight, tensor.dtype, choice, input_scale, tuple(tensor.shape))
        values = tensor.flatten(1).float()
        scale = scale.float().reshape(granularity.scale_shape((values.shape[0], values.shape[1])))
        codes = Job(format, granularity, generator=generator(seed, tensor.device)).codes(values, scale)
        shape = tuple(tensor.shape)
        return codes, cls.Params(scale, tensor.dtype, shape, format, granularity, input_scale, choice=choice)

    @classmethod
    def requantize_kwargs(cls, qtensor: QuantizedTensor) -> dict[str, object]:
        """What a LoRA merge keeps; smooth and rotation are inside the dequantized weight already."""
        return {name: getattr(qtensor._params, name) for name in ("format", "granularity", "input_scale", "choice")}

    @classmethod
    def dequantize(cls, qdata: Tensor, params: Params) -> Tensor:
        return scaled_weight(qdata, params).dequantize(params.orig_dtype).view(params.orig_shape)

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> tuple[Tensor, Tensor]:
        return qtensor._qdata, qtensor._params.scale

    @classmethod
    def state_dict_tensors(cls, qdata: Tensor, params: Params) -> dict[str, Tensor]:
        codes = qdata.view(params.orig_shape) if params.format.per_byte == 1 else qdata
        return {"": codes, "_scale": params.scale}


register_layout_class(ScaledWeightLayout.NAME, ScaledWeightLayout)


def scaled_weight(codes: Tensor, params: ScaledWeightLayout.Params) -> QuantizedWeight:
    shape = (params.orig_shape[0], prod(params.orig_shape[1:]))
    return QuantizedWeight(
        params.format, codes, params.scale, params.granularity, shape,
        params.input_scale, params.smooth, params.rotation, params.outer, params.codebook,
    )  # fmt: skip


def params_of(
    weight: QuantizedWeight,
    dtype: torch.dtype,
    choice: Choice | None,
    input_scale: Tensor | None,
    shape: tuple[int, ...] | None = None,
) -> ScaledWeightLayout.Params:
    return ScaledWeightLayout.Params(
        weight.scale, dtype, shape or weight.shape, weight.format, weight.granularity,
        input_scale, weight.smooth, weight.rotation, weight.outer, weight.codebook, choice,
    )  # fmt: skip


def to_tensor(
    weight: QuantizedWeight,
    dtype: torch.dtype,
    choice: Choice | None = None,
    shape: tuple[int, ...] | None = None,
) -> QuantizedTensor:
    """The weight as one tensor that reads as dtype; codes and scales are shared, not copied.

    shape: of a convolution's weight, ``[out, ...]`` with in elements after the first dimension; else ``[out, in]``.
    """
    params = params_of(weight, dtype, choice, weight.input_scale, shape)
    return QuantizedTensor(weight.codes, ScaledWeightLayout.NAME, params)


def is_scaled(tensor: object) -> bool:
    """Whether tensor is of this layout."""
    return isinstance(tensor, QuantizedTensor) and tensor._layout_cls == ScaledWeightLayout.NAME


def from_tensor(tensor: QuantizedTensor) -> QuantizedWeight:
    """The QuantizedWeight inside a tensor of this layout."""
    return scaled_weight(tensor._qdata, tensor._params)


def with_choice(tensor: QuantizedTensor, choice: Choice) -> QuantizedTensor:
    """The same weight with another kernel chosen for it; nothing is copied."""
    return QuantizedTensor(tensor._qdata, tensor._layout_cls, replace(tensor._params, choice=choice))
