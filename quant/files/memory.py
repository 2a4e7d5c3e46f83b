"""Checkpoints that are in memory already, or mapped lazily."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ..errors import Refused
from .header import CODES, TensorInfo
from .stored import Source


class StateDictSource(Source):
    """Tensors that are loaded already, or mapped lazily: looking at infos touches no data."""

    def __init__(
        self, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, name: str = "model"
    ) -> None:
        stored = {key: loaded(key, tensor, name) for key, tensor in state_dict.items()}
        super().__init__(stored, metadata, name=name)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A tensor in memory. own: whether it may be handed out as it is; if not, copies are."""

    info: TensorInfo
    value: Tensor
    origin: str
    own: bool = True
    path: Path | None = None

    def read(self, start: int, stop: int) -> Tensor:
        piece = self.value.reshape(-1)[start:stop]
        return piece if self.own else piece.clone()


def loaded(name: str, value: object, origin: str, own: bool = True) -> Loaded:
    """An entry of a state dict in memory as a tensor of a Source, checked."""
    if not isinstance(value, Tensor):
        raise Refused(f"{origin}: {name!r} is a {type(value).__name__}, not a tensor; save the state dict alone.")
    if value.dtype not in CODES or value.layout is not torch.strided:
        raise Refused(
            f"{origin}: {name!r} is a {value.layout} tensor of {value.dtype}; make it a dense one that torch saves."
        )
    shape = tuple(value.shape)
    nbytes = prod(shape) * value.dtype.itemsize
    return Loaded(TensorInfo(name, CODES[value.dtype], shape, nbytes), value.detach(), origin, own)
