"""What torch may do to a scaled tensor without dequantizing it: cut, fill up, put together, send to other devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from comfy_kitchen.tensor import QuantizedTensor, register_layout_op
from torch import Tensor

from ..distributed import parts
from ..distributed.gathering import Shard, parts_of
from ..errors import Refused
from .params import layer_of
from .tensor import (
    ScaledTensor,
    ScaledWeightLayout,
    alias,
    as_stored,
    is_scaled,
    rewrapped,
    shard_of,
    tensors_in,
)

aten = torch.ops.aten
Args = Sequence[Any]


def operation(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function of (tensor, arguments, keywords) for operations of torch; skips those this torch lacks."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for found in filter(None, map(overload, names)):
            register_layout_op(found, ScaledWeightLayout)(lambda qt, args, kwargs, op=found: function(op, args, kwargs))
        return function

    return register


def overload(name: str) -> Any:
    """An operation of torch by its dotted name, which scaled tensors are to take; None where this torch has none."""
    found: Any = torch.ops
    for word in name.split("."):
        try:
            found = getattr(found, word)
        except (AttributeError, RuntimeError):
            return None
    return found


##### One tensor


@operation("aten.split.Tensor")
def split(op: Any, args: Args, kwargs: dict[str, Any]) -> list[ScaledTensor]:
    tensor, size, dim = args[0], args[1], dimension(args, 2)
    starts = range(0, tensor.shape[dim], size)
    # where a part is not the last, it says what all are filled up to
    shard = Shard(matrix(tensor), size) if dim == 0 else None
    return [cut(tensor, dim, start, min(start + size, tensor.shape[dim]), shard) for start in starts]


@operation("aten.split_with_sizes.default")
def split_with_sizes(op: Any, args: Args, kwargs: dict[str, Any]) -> list[ScaledTensor]:
    tensor, dim, ends = args[0], dimension(args, 2), [0]
    for size in args[1]:
        ends.append(ends[-1] + size)
    return [cut(tensor, dim, start, stop) for start, stop in zip(ends, ends[1:], strict=False)]


@operation("aten.slice.Tensor")
def slice_(op: Any, args: Args, kwargs: dict[str, Any]) -> Tensor:
    tensor, dim = args[0], dimension(args, 1)
    start, stop, step = (*args[2:], *(None, None, None)[len(args) - 2 :])[:3]
    if step not in (None, 1):
        return op(tensor.dequantize(), *args[1:])
    start, stop, _ = slice(start, stop).indices(tensor.shape[dim])
    return cut(tensor, dim, start, max(start, stop))


@operation("aten.new_zeros.default")
def new_zeros(op: Any, args: Args, kwargs: dict[str, Any]) -> Tensor:
    """torch's new_zeros for a scaled tensor: zeros of the same kind, rows that others are copied into."""
    tensor, shape = args[0], tuple(args[1])
    if len(shape) != 2:
        return torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    found = shard_of(tensor)
    # more rows: a part that is filled up; not more: what is cut, which may be another engine's part itself
    filled_up = found is not None and shape[0] > tensor.shape[0]
    shard = Shard(found.whole if found and filled_up else matrix(tensor), shape[0])
    return rewrapped(tensor, parts.zeros(as_stored(tensor), (shape[0], shape[1])), shard)


@operation("aten.new_empty.default")
def new_empty(op: Any, args: Args, kwargs: dict[str, Any]) -> Tensor:
    return new_zeros(op, args, kwargs) if len(args[1]) == 2 else torch.empty(args[1], dtype=args[0].dtype)


@operation("aten.view.default", "aten._unsafe_view.default", "aten.reshape.default")
def view(op: Any, args: Args, kwargs: dict[str, Any]) -> Tensor:
    """Itself for its own shape, and for [-1], by which FSDP means what it keeps: none of them is ever flat."""
    tensor, shape = args[0], tuple(args[1])
    if shape in ((-1,), tuple(tensor.shape)):
        return alias(tensor)
    return op(tensor.dequantize(), *args[1:])


@operation("aten.as_strided.default")
def as_strided(op: Any, args: Args, kwargs: dict[str, Any]) -> Tensor:
    tensor, own = args[0], (tuple(args[0].shape), tuple(args[0].stride()), 0)
    wanted = (tuple(args[1]), tuple(args[2]), args[3] if len(args) > 3 and args[3] is not None else 0)
    return alias(tensor) if wanted == own else op(tensor.dequantize(), *args[1:])


@operation("aten.constant_pad_nd.default")
def pad(op: Any, args: Args, kwargs: dict[str, Any]) -> Tensor:
    tensor, amounts, value = args[0], [*args[1], 0, 0][:4], args[2] if len(args) > 2 else 0
    left, right, above, below = amounts
    if left or above or value:
        return op(tensor.dequantize(), *args[1:])
    weight = parts.filled(as_stored(tensor), 1, tensor.shape[1] + right)
    return rewrapped(tensor, parts.filled(weight, 0, tensor.shape[0] + below), shard_of(tensor))


@operation("aten.cat.default")
def cat(op: Any, args: Args, kwargs: dict[str, Any]) -> Tensor:
    tensors, dim = args[0], dimension((None, *args[1:]), 1)
    weights = [as_stored(tensor) for tensor in tensors if is_scaled(tensor)]
    if len(weights) < len(tensors):
        raise Refused("A scaled weight cannot be put beside one without scales; dequantize it first.")
    return rewrapped(tensors[0], parts.joined(weights, dim))


def cut(tensor: Tensor, dim: int, start: int, stop: int, shard: Shard | None = None) -> ScaledTensor:
    """What slices of a scaled tensor are made by: its rows or columns; of a part elsewhere only the shape."""
    try:
        weight = parts.part(as_stored(tensor), dim, start, stop)  # type: ignore[arg-type]
    except Refused as problem:
        name = layer_of(tensor)
        raise Refused(f"{name}: {problem}" if name else problem) from None
    return rewrapped(tensor, weight, shard or (shard_of(tensor) if dim == 0 else None))


def dimension(args: Args, at: int) -> int:
    dim = args[at] if len(args) > at else 0
    return int(dim) % 2


def matrix(tensor: Tensor) -> tuple[int, int]:
    return (tensor.shape[0], tensor.shape[1])


##### Several devices


@operation("c10d.scatter_.default", "c10d.broadcast_.default")
def collective(op: Any, args: Args, kwargs: dict[str, Any]) -> Any:
    """A collective on lists of tensors, once for each tensor that a scaled one is made of."""
    works = [op(*inner, **kwargs) for inner in taken_apart(args)]
    for work in works[:-1]:
        work[-1].wait()
    return args[0], works[-1][-1]


def taken_apart(args: Args) -> Iterator[list[Any]]:
    """The arguments with each scaled tensor replaced by its first part, then by its second, and so on."""
    count = next(len(components(tensor)) for tensor in flattened(args) if is_scaled(tensor))
    for i in range(count):
        yield [replaced(arg, i) for arg in args]


def replaced(value: Any, i: int) -> Any:
    if is_scaled(value):
        return components(value)[i]
    return [replaced(item, i) for item in value] if isinstance(value, list | tuple) else value


def flattened(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from flattened(item)
    else:
        yield value


def components(tensor: QuantizedTensor) -> list[Tensor]:
    """All tensors of a scaled one, codes as bytes; contiguous, so that they can be received into."""
    return [parts.as_bytes(part) for part in tensors_in(tensor)]


@operation("_c10d_functional.all_gather_into_tensor.default")
def all_gather(op: Any, args: Args, kwargs: dict[str, Any]) -> Tensor:
    """Every device's rows, one after another."""
    tensor, count = args[0], args[1]
    weight = as_stored(tensor)
    own = {name: part.contiguous() for name, part in parts_of(weight).items()}
    found = {name: op(parts.as_bytes(part), *args[1:], **kwargs).view(part.dtype) for name, part in own.items()}
    return rewrapped(tensor, replace(weight, shape=(weight.shape[0] * count, weight.shape[1]), **found))


@operation("_c10d_functional.wait_tensor.default")
def wait(op: Any, args: Args, kwargs: dict[str, Any]) -> Tensor:
    for part in parts_of(as_stored(args[0])).values():
        op(parts.as_bytes(part))
    return alias(args[0])
