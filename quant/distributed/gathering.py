"""A weight whose rows lie on several devices, gathered for a forward: codes travel as bytes, scales with their rows.

The hooks of FSDP2 (``torch.distributed.fsdp``, all-gather extensions): what each device gives, and the weight that
is made of what all gave.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from torch import Tensor

from ..weights.weight import QuantizedWeight
from .parts import ALONG, TILED, Share, as_bytes, check_border, filled, scale_step, tiles_of


@dataclass(frozen=True)
class Shard:
    """Of which weight some rows are a part. whole: its ``(out, in)``; rows: of every part, the last ones filled up."""

    whole: tuple[int, int]
    rows: int


def parts_of(weight: QuantizedWeight) -> dict[str, Tensor]:
    """The tensors that lie along a weight's rows, by field."""
    tiled = TILED if scale_step(weight, 0) is not None else ()
    found = {name: getattr(weight, name) for name in ("codes", *tiled, *ALONG[0])}
    return {name: tensor for name, tensor in found.items() if tensor is not None and tensor.dim()}


def cut_alone(weight: QuantizedWeight, share: Share) -> tuple[QuantizedWeight, Shard]:
    """An even part that an engine cut of the codes, which knows no scales: with those of its own rows.

    Refused where the part begins inside of a block.
    """
    rows, columns = weight.codes.shape[0], weight.codes.shape[1] * weight.format.per_byte
    start, whole = share.index * rows, share.count * rows
    check_border(weight, 0, start)
    steps = dict.fromkeys(ALONG[0], 1) | dict.fromkeys(TILED, scale_step(weight, 0))
    own: dict[str, Any] = {
        name: tiles_of(getattr(weight, name), step, 0, start, start + rows)
        for name, step in steps.items()
        if lies_along(getattr(weight, name), step, whole)
    }
    return replace(weight, shape=(rows, columns), **own), Shard((whole, columns), rows)


def lies_along(tensor: Tensor | None, step: int | None, rows: int) -> bool:
    """Whether a tensor has one row for each step of so many."""
    return tensor is not None and bool(tensor.dim()) and step is not None and tensor.shape[0] == ceil(rows / step)


def given(weight: QuantizedWeight, shard: Shard) -> tuple[Tensor, ...]:
    """What a device gives: each tensor ``[rows, ...]`` of its part, filled up to the rows of every part."""
    tensors = parts_of(filled(weight, 0, shard.rows)).values()
    return tuple(as_bytes(tensor).contiguous() for tensor in tensors)


def gathered(weight: QuantizedWeight, shard: Shard, outputs: tuple[Tensor, ...]) -> QuantizedWeight:
    """The whole weight as views of what all devices gave, in their order; weight: this device's part."""
    own = parts_of(weight)
    steps = dict.fromkeys(own, 1) | dict.fromkeys(TILED, scale_step(weight, 0) or 1)
    tensors: dict[str, Any] = {
        name: output.view(own[name].dtype)[: ceil(shard.whole[0] / steps[name])]
        for name, output in zip(own, outputs, strict=True)
    }
    return replace(weight, shape=shard.whole, **tensors)
