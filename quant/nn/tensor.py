"""The resident form of a scaled weight: a comfy-kitchen layout for every granularity.

A Parameter that wraps it keeps one byte a weight, moves and pins as one tensor, and reads from outside as the
model's own dtype and shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
from comfy_kitchen.tensor import QuantizedLayout, QuantizedTensor, register_layout_class
from torch import Tensor
from torch.utils import _pytree as pytree

from ..distributed.gathering import Shard, cut_alone, gathered, given
from ..distributed.parallel import local
from ..distributed.parts import Share
from ..errors import Refused
from ..weights.encode import quantize
from ..weights.formats import Format, float8_e4m3fn
from ..weights.granularity import Granularity, PerTensor
from ..weights.job import Job, generator
from ..weights.weight import QuantizedWeight
from .params import LowRank, ScaledParams, full_scale, params_of, recoded, scaled_weight, unsmoothed

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from ..kernels.choice import Choice


Q = TypeVar("Q", bound=QuantizedTensor)


class ScaledWeightLayout(QuantizedLayout):
    """A QuantizedWeight as a comfy-kitchen tensor; any operation without a kernel sees the dequantized weight."""

    NAME = "ScaledWeightLayout"

    Params = ScaledParams

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
        smooth: Tensor | None = None,
        choice: Choice | None = None,
        beside: LowRank | None = None,
    ) -> tuple[Tensor, ScaledParams]:
        """Quantize ``[out, in]`` with new scales; a seed > 0 rounds stochastically, as ComfyUI does for LoRA.

        smooth: ``[in]``, what will multiply the activations, so that the columns are divided by it here;
        beside: a low-rank part that stays as it is, so that the codes hold the rest alone.
        """
        granularity, seed = granularity or PerTensor(), stochastic_rounding or 0
        if isinstance(scale, Tensor):
            job = Job(format, granularity, generator=generator(seed, tensor.device))
            codes, params = recoded(tensor, scale, job)
            return codes, chosen_for(codes, replace(params, input_scale=input_scale), choice)
        smooth = None if smooth is None else smooth.to(tensor.device)
        rest = unsmoothed(tensor.flatten(1) if beside is None else beside.rest(tensor), smooth)
        # between two steps of sampling a GPU is not waited for
        weight = quantize(rest, format, granularity, seed=seed, checked=rest.device.type == "cpu")
        low_rank = {} if beside is None else vars(beside)
        weight = replace(weight, smooth=smooth, input_scale=input_scale, **low_rank)
        return weight.codes, params_of(weight, tensor.dtype, choice, tuple(tensor.shape))

    @classmethod
    def requantize_kwargs(cls, qtensor: QuantizedTensor) -> dict[str, object]:
        """What a LoRA merge keeps, so that the result can be copied over the weight it came from."""
        params = qtensor._params
        kept = {name: getattr(params, name) for name in ("format", "granularity", "input_scale", "smooth", "choice")}
        return kept if params.up is None else kept | {"beside": LowRank(params.up, params.down)}

    @classmethod
    def dequantize(cls, qdata: Tensor, params: ScaledParams) -> Tensor:
        return scaled_weight(qdata, params).expanded().dequantize(params.orig_dtype).view(params.orig_shape)

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> tuple[Tensor, Tensor]:
        return qtensor._qdata, full_scale(qtensor._params)

    @classmethod
    def state_dict_tensors(cls, qdata: Tensor, params: ScaledParams) -> dict[str, Tensor]:
        codes = qdata.view(params.orig_shape) if params.format.per_byte == 1 else qdata
        return {"": codes, "_scale": full_scale(params)}

    @classmethod
    def pre_all_gather(
        cls, qtensor: QuantizedTensor, mesh: DeviceMesh | None = None
    ) -> tuple[tuple[Tensor, ...], object]:
        """What a device gives to the others: bytes ``[rows, ...]`` of its part, and what all need to know of it."""
        weight, shard = as_stored(qtensor), shard_of(qtensor)
        if shard is None:
            weight, shard = cut_alone(weight, Share(0, 1) if mesh is None else Share.of(mesh))
        return given(weight, shard), (weight, shard)

    @classmethod
    def post_all_gather(
        cls,
        qtensor: QuantizedTensor,
        all_gather_outputs: tuple[Tensor, ...],
        metadata: tuple[QuantizedWeight, Shard],
        param_dtype: torch.dtype,
        *,
        out: QuantizedTensor | None = None,
    ) -> tuple[QuantizedTensor, tuple[Tensor, ...]] | None:
        """The whole weight from what all devices gave; out: the one made before, which is a view of the same bytes."""
        weight = gathered(*metadata, all_gather_outputs)
        made = to_tensor(weight, param_dtype) if out is None else local(out)
        # the gathered scales themselves: they are freed with the rest of what all gave
        made._qdata, made._params = weight.codes, replace(made._params, scale=weight.scale, outer=weight.outer)
        return (made, all_gather_outputs) if out is None else None


class ScaledTensor(QuantizedTensor):
    """A tensor of this layout that stays one under torch's operations, and that FSDP2 shards as codes and scales."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            # the same scales: comfy-kitchen would copy them, and FSDP2 fills them anew where they are
            return alias(args[0])
        found = super().__torch_dispatch__(func, types, args, kwargs)
        return pytree.tree_map_only(QuantizedTensor, kept, found)

    @classmethod
    def _dequant_and_fallback(cls, func: Any, args: Any, kwargs: Any) -> Any:
        """On the dequantized weight, of which nothing is kept: Refused where that is what would be changed."""
        if any(argument.is_write and is_scaled(value) for argument, value in arguments_of(func, args, kwargs)):
            raise Refused(
                f"{func} would change a scaled weight in place, whose codes cannot take that; "
                "dequantize it, or put a new weight in its place."
            )
        return super()._dequant_and_fallback(func, args, kwargs)

    @staticmethod
    def __tensor_unflatten__(inner_tensors: Any, ctx: Any, outer_size: Any, outer_stride: Any) -> QuantizedTensor:
        return kept(QuantizedTensor.__tensor_unflatten__(inner_tensors, ctx, outer_size, outer_stride))

    def fsdp_pre_all_gather(self, mesh: DeviceMesh) -> tuple[tuple[Tensor, ...], object]:
        # of one argument: with five FSDP2 wants every part in the shape of the codes
        return ScaledWeightLayout.pre_all_gather(self, mesh)

    def fsdp_post_all_gather(
        self, all_gather_outputs: Any, metadata: Any, param_dtype: torch.dtype, *, out: Any = None
    ) -> Any:
        return ScaledWeightLayout.post_all_gather(self, all_gather_outputs, metadata, param_dtype, out=out)


def arguments_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """What an operation of torch says of each argument that it is given, with its value."""
    for i, argument in enumerate(func._schema.arguments):
        value = args[i] if i < len(args) else kwargs.get(argument.name)
        yield argument, value


def kept(tensor: QuantizedTensor) -> QuantizedTensor:
    """A tensor that comfy-kitchen made of a scaled one, as a scaled one again."""
    return alias(tensor) if type(tensor) is QuantizedTensor and is_scaled(tensor) else tensor


def rewrapped(tensor: Any, weight: QuantizedWeight, shard: Shard | None = None) -> ScaledTensor:
    """Another weight in the place of a scaled tensor's own; no kernel is chosen for it yet."""
    params = params_of(weight, tensor._params.orig_dtype)
    return ScaledTensor(weight.codes, tensor._layout_cls, replace(params, shard=shard))


register_layout_class(ScaledWeightLayout.NAME, ScaledWeightLayout)


def to_tensor(
    weight: QuantizedWeight,
    dtype: torch.dtype,
    choice: Choice | None = None,
    shape: tuple[int, ...] | None = None,
) -> QuantizedTensor:
    """The weight as one tensor that reads as dtype; codes and scales are shared, not copied.

    shape: of a convolution's weight, ``[out, ...]`` with in elements after the first dimension; else ``[out, in]``.
    """
    params = params_of(weight, dtype, choice, shape)
    return ScaledTensor(weight.codes, ScaledWeightLayout.NAME, params)


def is_scaled(tensor: object) -> TypeGuard[QuantizedTensor]:
    """Whether tensor is of this layout."""
    return isinstance(tensor, QuantizedTensor) and tensor._layout_cls == ScaledWeightLayout.NAME


def from_tensor(tensor: QuantizedTensor) -> QuantizedWeight:
    """The QuantizedWeight inside a tensor of this layout."""
    return as_stored(tensor).expanded()


def as_stored(tensor: QuantizedTensor) -> QuantizedWeight:
    """The same with its scales in the bytes that hold them: to be cut, joined and copied into, not to compute with."""
    return scaled_weight(tensor._qdata, tensor._params)


def as_computed(tensor: QuantizedTensor) -> QuantizedWeight:
    """The same with its parts also as the chosen kernel reads them: for a forward, not to be changed."""
    return replace(as_stored(tensor), **tensor._params.arrangement())


def choice_of(tensor: Any) -> Choice | None:
    """The kernel chosen for a tensor of this layout, None where none is yet."""
    return tensor._params.choice


def shard_of(tensor: Any) -> Shard | None:
    """Of which weight the rows of a tensor of this layout are a part; None where nothing says so."""
    return tensor._params.shard


def tensors_in(tensor: Any) -> list[Tensor]:
    """The codes of a tensor of this layout, then every other tensor that it is made of."""
    return [tensor._qdata, *(getattr(tensor._params, name) for name in tensor._params._tensor_fields())]


def part_of(tensor: Any, shard: Shard | None) -> ScaledTensor:
    """The same tensor as rows of a weight whose others lie elsewhere; itself where it is whole."""
    return ScaledTensor(tensor._qdata, tensor._layout_cls, replace(tensor._params, shard=shard)) if shard else tensor


def alias(tensor: Any) -> ScaledTensor:
    """The same tensor as another object."""
    return as_class(tensor, ScaledTensor)


def as_class(tensor: Any, cls: type[Q]) -> Q:
    """The same tensor as one of another class of comfy-kitchen's tensors."""
    return cls(tensor._qdata, tensor._layout_cls, tensor._params)


def with_choice(tensor: QuantizedTensor, choice: Choice) -> QuantizedTensor:
    """The same weight with another kernel chosen for it; codes and scales are shared, not copied."""
    return ScaledTensor(tensor._qdata, tensor._layout_cls, chosen_for(tensor._qdata, tensor._params, choice))


def chosen_for(codes: Tensor, params: ScaledParams, choice: Choice | None) -> ScaledParams:
    """The same beside these codes, arranged for another choice."""
    weight = scaled_weight(codes, params)
    weight = weight if choice is None else choice.arranged(weight)
    return replace(params, **weight.arrangement(), choice=choice)
