"""A bounded number of a layer's elements, always the same ones, with the scale that belongs to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .layer import UNSCALED, Layer, as_float
from .plausibility import Sample

FEW_SCALES = 1 << 14  # read whole up to here, sampled above
T = TypeVar("T")
CHUNK = 1 << 20  # elements at a time when all are looked at
RUNS, RUN = 4, 4096  # contiguous elements read at evenly spaced places
LAYERS = 256  # scaled layers whose codes are looked at
CASTS = 400  # unscaled ones: each must be proven, so nearly all


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """At most count items, evenly spaced, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


def sample(layer: Layer, runs: Sequence[tuple[int, int]] | None = None) -> Sample:
    """Values of the layer before and after scaling, of these runs of flat elements or of some evenly spaced ones."""
    runs = run_starts(layer.stored[0] * layer.stored[1]) if runs is None else runs
    raw = torch.cat([run(layer, start, stop) for start, stop in runs])
    places = torch.cat([torch.arange(start, stop) for start, stop in runs])
    return Sample(raw, raw if layer.kind is UNSCALED else raw * scales_at(layer, places))


def chunks(layer: Layer) -> list[list[tuple[int, int]]]:
    """Runs that make up the whole layer, one at a time."""
    total = layer.stored[0] * layer.stored[1]
    return [[(start, min(start + CHUNK, total))] for start in range(0, total, CHUNK)]


def run_starts(total: int) -> list[tuple[int, int]]:
    if total <= RUNS * RUN:
        return [(0, total)]
    # even, for codes packed in pairs
    starts = [i * (total - RUN) // (RUNS - 1) & ~1 for i in range(RUNS)]
    return [(start, start + RUN) for start in starts]


def run(layer: Layer, start: int, stop: int) -> Tensor:
    """Unscaled values of the flat elements [start, stop)."""
    packed = layer.format.per_byte
    piece = layer.module.source.piece(layer.module.key("weight") or "", start // packed, stop // packed)
    return layer.values(piece).flatten()


def scales_at(layer: Layer, places: Tensor) -> Tensor:
    """The scale of each flat element of the stored matrix."""
    grid, (rows, cols) = layer.grid(), layer.fits[0].tile(layer.stored)
    if grid.numel() == 1:
        return grid.reshape(())
    return grid[places // layer.stored[1] // rows, places % layer.stored[1] // cols]


def scale_values(layer: Layer, everything: bool = False) -> Tensor:
    """Float32 scales as the file has them, all or some."""
    key = layer.module.key("scale") or layer.module.key("quant_scale") or layer.module.key("channel_scale") or ""
    info, source = layer.module.source[key], layer.module.source
    total = info.numel
    if everything or total <= FEW_SCALES:
        return as_float(source.tensor(key).flatten())
    return as_float(torch.cat([source.piece(key, start, stop) for start, stop in run_starts(total)]))
