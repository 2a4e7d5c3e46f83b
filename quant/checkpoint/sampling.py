"""A bounded number of a layer's elements, always the same ones, with the scale that belongs to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .kinds import UNSCALED, as_float
from .layer import Layer
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
    runs = spaced_runs(layer) if runs is None else runs
    raw = torch.cat([run(layer, start, stop) for start, stop in runs])
    if layer.kind is UNSCALED:
        return Sample(raw, raw)
    places = torch.cat([torch.arange(start, stop) for start, stop in runs])
    smooth = smooth_at(layer, places)
    scaled = raw * at(layer, layer.grid(), places) * smooth
    added = low_rank_values(layer, runs)
    if layer.kind.offset:
        added = at(layer, layer.kind.offset(layer), places) * smooth
    return Sample(raw, scaled, None if added is None else scaled + added)


def smooth_at(layer: Layer, places: Tensor) -> Tensor:
    """What a file's smoothing multiplies each flat element of the stored matrix by."""
    smooth, cols = layer.smooth(), layer.stored[1]
    if smooth is None:
        return torch.ones(())
    inputs = places // cols if layer.transposed else places % cols
    # columns that only fill up blocks have none
    return smooth[inputs.clamp(max=len(smooth) - 1)]


def low_rank_values(layer: Layer, runs: Sequence[tuple[int, int]]) -> Tensor | None:
    """What the low-rank part adds to each flat element of these runs, None where there is none."""
    up, down = layer.low_rank()
    if up is None or down is None:
        return None
    return torch.cat([product(up, down, start, stop) for start, stop in runs])


def product(up: Tensor, down: Tensor, start: int, stop: int) -> Tensor:
    """Flat elements [start, stop) of ``up @ down``, float32."""
    cols = down.shape[1]
    rows = up[start // cols : -(-stop // cols)].float() @ down.float()
    return rows.flatten()[start % cols :][: stop - start]


def chunks(layer: Layer) -> list[list[tuple[int, int]]]:
    """Runs that make up the whole layer, one at a time."""
    total, tile = layer.stored[0] * layer.stored[1], layer.kind.tile * layer.stored[1]
    step = CHUNK if layer.kind.tile == 1 else max(1, CHUNK // tile) * tile
    return [[(start, min(start + step, total))] for start in range(0, total, step)]


def spaced_runs(layer: Layer) -> list[tuple[int, int]]:
    """Evenly spaced ones; of rows that are stored together, the first and the last."""
    total, tile = layer.stored[0] * layer.stored[1], layer.kind.tile * layer.stored[1]
    if layer.kind.tile == 1:
        return run_starts(total)
    return [(start, start + tile) for start in sorted({0, total - tile})]


def run_starts(total: int) -> list[tuple[int, int]]:
    if total <= RUNS * RUN:
        return [(0, total)]
    # even, for codes packed in pairs
    starts = [i * (total - RUN) // (RUNS - 1) & ~1 for i in range(RUNS)]
    return [(start, start + RUN) for start in starts]


def run(layer: Layer, start: int, stop: int) -> Tensor:
    """Unscaled values of the flat elements [start, stop)."""
    packed = layer.kind.per_element
    piece = layer.module.source.piece(layer.module.key("weight") or "", start // packed, stop // packed)
    return layer.values(piece).flatten()


def at(layer: Layer, grid: Tensor, places: Tensor) -> Tensor:
    """What of a grid of scales belongs to each flat element of the stored matrix."""
    rows, cols = layer.fits[0].tile(layer.stored)
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
