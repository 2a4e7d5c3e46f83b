"""Which weights share a scale, as values. Shapes are of a weight ``[out, in]``."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PerTensor:
    """One scale for all: ``[out, in] -> []``."""

    name = "per-tensor"

    def scale_shape(self, shape: tuple[int, int]) -> tuple[int, ...]:
        return ()

    def expand(self, scale: Tensor, shape: tuple[int, int]) -> Tensor:
        return scale.reshape(1, 1)

    def amax(self, weight: Tensor) -> Tensor:
        return largest(weight, (0, 1))

    def total(self, values: Tensor) -> Tensor:
        return values.sum()


@dataclass(frozen=True)
class PerRow:
    """One scale for each output channel: ``[out, in] -> [out, 1]``."""

    name = "per-row"

    def scale_shape(self, shape: tuple[int, int]) -> tuple[int, ...]:
        return (shape[0], 1)

    def expand(self, scale: Tensor, shape: tuple[int, int]) -> Tensor:
        return scale.reshape(-1, 1)

    def amax(self, weight: Tensor) -> Tensor:
        return largest(weight, (1,)).unsqueeze(1)

    def total(self, values: Tensor) -> Tensor:
        return values.sum(1, keepdim=True)


@dataclass(frozen=True)
class PerBlock:
    """One scale for each tile of rows x cols: ``[out, in] -> [ceil(out / rows), ceil(in / cols)]``."""

    rows: int = 128
    cols: int = 128
    name = "block"

    def scale_shape(self, shape: tuple[int, int]) -> tuple[int, ...]:
        return (ceil(shape[0] / self.rows), ceil(shape[1] / self.cols))

    def expand(self, scale: Tensor, shape: tuple[int, int]) -> Tensor:
        tall = scale.repeat_interleave(self.rows, 0).narrow(0, 0, shape[0])
        return tall.repeat_interleave(self.cols, 1).narrow(1, 0, shape[1])

    def amax(self, weight: Tensor) -> Tensor:
        return largest(self.tiled(weight), (1, 3))

    def total(self, values: Tensor) -> Tensor:
        return self.tiled(values).sum((1, 3))

    def tiled(self, values: Tensor) -> Tensor:
        """``[out, in] -> [m, rows, n, cols]``, filled up with zeros."""
        m, n = self.scale_shape((values.shape[0], values.shape[1]))
        padding = (0, n * self.cols - values.shape[1], 0, m * self.rows - values.shape[0])
        filled = F.pad(values, padding) if any(padding) else values
        return filled.view(m, self.rows, n, self.cols)


@dataclass(frozen=True)
class PerGroup(PerBlock):
    """One scale for each run of cols inputs of one output: ``[out, in] -> [out, ceil(in / cols)]``."""

    rows: int = 1
    cols: int = 32
    name = "group"


Granularity = PerTensor | PerRow | PerBlock
GRANULARITIES: dict[str, Granularity] = {g.name: g for g in (PerTensor(), PerRow(), PerBlock(), PerGroup())}


def largest(weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Largest magnitude over dims in float32; NaN where there is one."""
    if len(dims) == weight.dim() and weight.numel():
        # one pass, which is vectorized for 16-bit floats too
        low, high = torch.aminmax(weight)
        return torch.maximum(high, -low).float()
    # amax and amin read the tensor as it is; abs() would write a copy of it first
    return torch.maximum(weight.amax(dims), -weight.amin(dims)).float()
