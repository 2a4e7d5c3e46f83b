"""Tensors of a conversion's source, quantized or not, as values in high precision, read in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ..checkpoint.read import Checkpoint
from ..files.header import TensorInfo, info_of
from ..weights.job import SLAB

PIECE = 4 * SLAB  # elements read at once


@dataclass(frozen=True)
class Values:
    """A tensor of a checkpoint as high-precision values, read in pieces. layer: name of the quantized layer it is."""

    ckpt: Checkpoint
    name: str
    layer: str | None = None

    @cached_property
    def info(self) -> TensorInfo:
        if self.layer is None:
            return self.ckpt.tensors.info(self.name)
        return info_of(self.name, torch.float32, self.ckpt.spec(self.layer).full_shape)

    @property
    def before(self) -> str:
        return self.info.dtype if self.layer is None else format_of(self.ckpt, self.layer)

    @property
    def read_bytes(self) -> int:
        per = 1 if self.layer is not None else self.info.nbytes // max(1, self.info.numel)
        return self.info.numel * per

    @property
    def matrix(self) -> tuple[int, int]:
        return (self.info.shape[0], prod(self.info.shape[1:]))

    @property
    def whole(self) -> bool:
        """Whether it is decoded at once rather than read in pieces."""
        return self.layer is not None or self.name in self.ckpt.tensors.biases

    def tensor(self) -> Tensor:
        return self.ckpt.tensors[self.name] if self.layer is None else self.ckpt[self.layer].dequantize()

    def reader(self) -> Callable[[int, int], Tensor]:
        """What reads the flat elements [start, stop)."""
        if self.whole:
            flat = self.tensor().reshape(-1)
            return lambda start, stop: flat[start:stop]
        key = self.ckpt.tensors.keys_of[self.name]
        return lambda start, stop: self.ckpt.source.piece(key, start, stop)

    def cost(self) -> int:
        return self.info.numel * 12 if self.whole else PIECE * 16


def format_of(ckpt: Checkpoint, layer: str) -> str:
    return ckpt.spec(layer).stored_as


def pieces(total: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + PIECE, total)) for start in range(0, total, PIECE))
