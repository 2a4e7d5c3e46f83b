"""Diffusers' names and separate q, k, v to ComfyUI's names and fused qkv, with the scales."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import comfy.model_detection
import torch
from torch import Tensor

from ... import quant
from ...quant.nn.tensor import from_tensor, is_scaled, to_tensor
from .arrival import Arriving, arriving

# Rows of a tensor get numbers of their own, so many apart that no two tensors share one.
STRIDE = 1 << 40


def by_comfy_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors by ComfyUI's names; returned as they are where ComfyUI has no map for them.

    ComfyUI's own conversion is asked where each row goes, by giving it row numbers for weights: so its map is the
    only one, and scales of any granularity move with their rows.
    """
    names = list(tensors)
    numbered = {name: row_numbers(tensors[name], index) for index, name in enumerate(names)}
    moved = comfy.model_detection.convert_diffusers_mmdit(dict(numbered), "")
    if moved is None:
        return tensors
    return {name: gather(name, rows.reshape(rows.shape[0], -1)[:, 0], names, tensors) for name, rows in moved.items()}


def row_numbers(tensor: Tensor, index: int) -> Tensor:
    """Int64 ``[rows, 1, ...]`` of the tensor's rank, a number for each of its rows."""
    rows = torch.arange(height(tensor)) + index * STRIDE
    return rows.reshape(-1, *[1] * (tensor.ndim - 1))


def gather(name: str, rows: Tensor, names: list[str], tensors: dict[str, Tensor]) -> Tensor:
    """The tensor made of the numbered rows, scaled if all of them are; a whole tensor is passed on as it is."""
    parts = [(tensors[names[index]], start, stop) for index, start, stop in runs(rows)]
    if len(parts) == 1 and parts[0][2] - parts[0][1] == height(parts[0][0]):
        return parts[0][0]
    fused, first = fused_parts(parts), parts[0][0]
    if fused is None or not isinstance(first, Arriving):
        return torch.cat([plain(tensor)[start:stop] for tensor, start, stop in parts])
    return arriving(to_tensor(fused, first.dtype), name, first.note)


def fused_parts(parts: list[tuple[Tensor, int, int]]) -> quant.QuantizedWeight | None:
    """Rows of scaled weights as one scaled weight; None where not all are, or formats or block grids differ."""
    scaled = [(tensor, start, stop) for tensor, start, stop in parts if is_scaled(tensor)]
    if len(scaled) < len(parts):
        return None
    try:
        return quant.fuse_rows([quant.rows_of(from_tensor(tensor), start, stop) for tensor, start, stop in scaled])
    except quant.Refused:
        return None


def runs(rows: Tensor) -> Iterator[tuple[int, int, int]]:
    """(tensor, first row, row after the last) of each unbroken run of numbered rows."""
    for _, run in groupby(enumerate(rows.tolist()), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        yield numbers[0] // STRIDE, numbers[0] % STRIDE, numbers[-1] % STRIDE + 1


def height(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 1


def plain(tensor: Tensor) -> Tensor:
    return tensor.dequantize() if is_scaled(tensor) else tensor
