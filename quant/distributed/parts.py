"""Parts of a quantized weight: some of its rows or columns, filled up, put together; never requantized.

``dim`` 0 are outputs (rows), 1 are inputs (columns), as in ``[out, in]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, lcm
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import Refused
from ..weights.granularity import PerBlock, PerRow
from ..weights.weight import QuantizedWeight

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# what of a weight lies along each dimension, beside its codes: field -> its own dimension; and what a tile has one of
ALONG = {0: {"outer": 0, "up": 0}, 1: {"smooth": 0, "down": 1}}
TILED = ("scale", "offset")


def part(weight: QuantizedWeight, dim: int, start: int, stop: int) -> QuantizedWeight:
    """The part of a weight ``[out, in]`` that a device holds: rows or columns [start, stop); columns are copied.

    Refused where the part would begin inside of a block, a group, a rotation or a byte.
    """
    check_border(weight, dim, start)
    if dim == 1 and stop < weight.shape[1]:
        check_border(weight, 1, stop)
    along: dict[str, Any] = {
        name: sliced(getattr(weight, name), own, start, stop) for name, own in ALONG[dim].items()
    } | {name: tiles_of(getattr(weight, name), scale_step(weight, dim), dim, start, stop) for name in TILED}
    shape = (stop - start, weight.shape[1]) if dim == 0 else (weight.shape[0], stop - start)
    per = weight.format.per_byte if dim else 1
    codes = weight.codes.narrow(dim, start // per, ceil(stop / per) - start // per).contiguous()
    return replace(weight, codes=codes, shape=shape, **along)


def tiles_of(grid: Tensor | None, step: int | None, dim: int, start: int, stop: int) -> Tensor | None:
    """The scales, or offsets, of rows or columns [start, stop); step: how many of them share one, None for all."""
    if grid is None or step is None:
        return grid
    return grid.narrow(dim, start // step, ceil(stop / step) - start // step).contiguous()


def scale_step(weight: QuantizedWeight, dim: int) -> int | None:
    """How many rows or columns share a scale, None where all do."""
    if isinstance(weight.granularity, PerBlock):
        return weight.granularity.cols if dim else weight.granularity.rows
    return 1 if isinstance(weight.granularity, PerRow) and dim == 0 else None


def sliced(companion: Tensor | None, dim: int, start: int, stop: int) -> Tensor | None:
    """Elements [start, stop) along dim; what is there once for all stays."""
    fits = companion is not None and companion.dim() > 0
    return companion.narrow(dim, start, stop - start) if companion is not None and fits else companion


def border(weight: QuantizedWeight, dim: int) -> int:
    """What a part's first row or column must be a multiple of."""
    step = scale_step(weight, dim) or 1
    return lcm(step, weight.format.per_byte, weight.rotation or 1) if dim else step


def check_border(weight: QuantizedWeight, dim: int, at: int) -> None:
    """Refused where a weight cannot be cut for devices: inside of a block, a group, a rotation or a byte."""
    step = border(weight, dim)
    if at % step:
        what = "inputs" if dim else "outputs"
        raise Refused(
            f"a {weight.format.name} weight {list(weight.shape)} with {weight.granularity.name} scales cannot be cut "
            f"at {at} {what}, only at multiples of {step}; use another number of devices, or leave this layer whole."
        )


@dataclass(frozen=True)
class Share:
    """Which part of every weight is this process's: the index'th of count, as torch.chunk makes them."""

    index: int
    count: int

    @classmethod
    def of(cls, mesh: DeviceMesh) -> Share:
        if mesh.ndim != 1:
            raise Refused(
                f"mesh {tuple(mesh.shape)} has no one order of parts; give one dimension, such as mesh['tp']."
            )
        return cls(mesh.get_local_rank(), mesh.size())

    def span(self, size: int) -> tuple[int, int]:
        """[start, stop) of this part of size rows or columns: parts are equal, the last shorter, some empty."""
        step = ceil(size / self.count)
        return min(self.index * step, size), min((self.index + 1) * step, size)


##### Filled up, and put together


def filled(weight: QuantizedWeight, dim: int, size: int) -> QuantizedWeight:
    """A weight with zeros after its last row or column, so that all devices' parts have one size."""
    if size <= weight.shape[dim]:
        return weight
    per, step = weight.format.per_byte if dim else 1, scale_step(weight, dim)
    shape = (size, weight.shape[1]) if dim == 0 else (weight.shape[0], size)
    codes = lengthened(weight.codes, dim, ceil(size / per))
    along: dict[str, Any] = {name: grown(getattr(weight, name), own, size) for name, own in ALONG[dim].items()}
    if step is not None:
        along |= {name: grown(getattr(weight, name), dim, ceil(size / step)) for name in TILED}
    return replace(weight, codes=codes, shape=shape, **along)


def grown(companion: Tensor | None, dim: int, size: int) -> Tensor | None:
    return lengthened(companion, dim, size) if companion is not None and companion.dim() else companion


def lengthened(tensor: Tensor, dim: int, size: int) -> Tensor:
    missing = size - tensor.shape[dim]
    padding = (0, 0, 0, missing) if dim == 0 and tensor.dim() == 2 else (0, missing)
    return F.pad(as_bytes(tensor), padding).view(tensor.dtype) if missing else tensor


def as_bytes(tensor: Tensor) -> Tensor:
    """The same memory; codes of a byte as uint8, since float8 cannot be padded, joined or sent."""
    return tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor


def joined(parts: Sequence[QuantizedWeight], dim: int) -> QuantizedWeight:
    """The parts that devices hold of one weight, put together; Refused where they are of different kinds."""
    first = parts[0]
    if len({(one.format, one.granularity, one.rotation, one.shape[1 - dim]) for one in parts}) > 1:
        raise Refused("Weights of unlike formats, scales or shapes cannot be put together; dequantize them first.")
    tensors: dict[str, Any] = {name: cat(parts, name, dim) for name in ("codes", *TILED, *ALONG[dim])}
    size = sum(one.shape[dim] for one in parts)
    shape = (size, first.shape[1]) if dim == 0 else (first.shape[0], size)
    return replace(first, shape=shape, **tensors)


def cat(parts: Sequence[QuantizedWeight], name: str, dim: int) -> Tensor | None:
    own = [getattr(one, name) for one in parts]
    whole = own[0] is None or own[0].dim() == 0 or (name in TILED and scale_step(parts[0], dim) is None)
    if whole:
        return own[0]
    raw = [as_bytes(tensor) for tensor in own]
    return torch.cat(raw, ALONG[dim].get(name, dim)).view(own[0].dtype)


def zeros(weight: QuantizedWeight, shape: tuple[int, int]) -> QuantizedWeight:
    """A weight of the same kind and another shape, all zeros, that devices' parts are copied into."""

    def like(companion: Tensor | None, dim: int, size: int) -> Tensor | None:
        if companion is None or not companion.dim():
            return None if companion is None else torch.zeros_like(companion)
        own = (*companion.shape[:dim], size, *companion.shape[dim + 1 :])
        return companion.new_zeros(own)

    codes = weight.codes.new_zeros((shape[0], ceil(shape[1] / weight.format.per_byte)))
    grid = weight.granularity.scale_shape(shape)
    tiled: dict[str, Any] = {n: None if getattr(weight, n) is None else weight.scale.new_zeros(grid) for n in TILED}
    along: dict[str, Any] = {
        name: like(getattr(weight, name), own, shape[dim])
        for dim, names in ALONG.items()
        for name, own in names.items()
    }
    return replace(weight, codes=codes, shape=shape, **tiled, **along)
