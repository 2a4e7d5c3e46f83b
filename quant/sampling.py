"""A bounded number of a layer's elements, always the same ones, with the scale that belongs to each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .evidence import NAN_CODES, Sample, bad_codes, bad_scale, holds_nan, implausible
from .layer import NVFP4, UNSCALED, Layer

T = TypeVar("T")
CHUNK = 1 << 20  # elements at a time when all are looked at
RUNS, RUN = 4, 4096  # contiguous elements read at evenly spaced places
LAYERS = 256  # scaled layers whose codes are looked at
CASTS = 400  # unscaled ones: each must be proven, so nearly all
LARGEST = 1 << 25  # elements of a layer that is read whole
READ = 3  # layers read whole to settle what shapes cannot
FEW_SCALES = 1 << 14  # read whole up to here, sampled above
DOUBTFUL = (1e-4, 64.0)  # amax by the scale alone outside of which a layer is looked at in any case
# large or zero-initialised by design; section "layers usually kept in high precision" of the catalogue
EXEMPT = re.compile(
    r"embed|shared|relative_attention_bias|modulation|adaln|adaLN|_mod\.|time_in|guidance_in|vector_in|final_layer"
    r"|proj_out|lm_head|\bhead\b|norm|scale_shift|pos_|codebook|lora"
)


def spread(items: Sequence[T], count: int) -> list[T]:
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


def as_float(scale: Tensor) -> Tensor:
    return scale.view(torch.float8_e8m0fnu).float() if scale.dtype == torch.uint8 else scale.float()


##### Judgement of one layer


def scale_problem(layer: Layer, everything: bool = False) -> tuple[str, bool]:
    """What is wrong with a layer's scales by themselves, and whether they make its codes worth a look."""
    if layer.plain:
        return "", False
    scale = scale_values(layer, everything)
    problem = bad_scale(scale, zeros=layer.kind is NVFP4)
    low, high = DOUBTFUL
    largest = float(scale.max()) * layer.format.maximum
    return problem or nested_problem(layer), not low < largest < high


def nested_problem(layer: Layer) -> str:
    return bad_scale(layer.tensor("global_scale")) if layer.kind is NVFP4 else ""


def code_problem(layer: Layer, everything: bool = False) -> str:
    """What is wrong with a layer's codes and their scale, "" for nothing that the numbers show."""
    problem = sample_problem(layer, sample(layer), low=not layer.plain)
    parts = chunks(layer) if everything else []
    return problem or next((p for runs in parts if (p := sample_problem(layer, sample(layer, runs)))), "")


def sample_problem(layer: Layer, seen: Sample, low: bool = False) -> str:
    """The same by one sample; low: whether it is large enough to be called too small."""
    if broken := bad_codes(seen.raw):
        return broken
    if low and not seen.zero and not bool(seen.scaled.any()):
        return "its codes are not zero but their scales are: the scales are of another layer, or were never filled in"
    exempt = bool(EXEMPT.search(layer.name)) or len(layer.full) > 2
    problem = implausible(seen.scaled, layer.inputs, exempt, low)
    if not problem:
        return ""
    if layer.plain:
        # an embedding may be this large, but only absmax scaling reaches the very last code
        return "" if exempt and not reaches_top(layer) else lost_scale(problem)
    return wrong_scale(layer, seen, problem)


def relabelled(layer: Layer) -> str:
    """What a whole layer of e4m3 codes shows that a sample misses: one NaN is enough."""
    if layer.format.dtype is not torch.float8_e4m3fn or layer.stored[0] * layer.stored[1] > LARGEST:
        return ""
    source, key = layer.module.source, layer.module.key("weight") or ""
    pieces = (source.piece(key, *bounds) for runs in chunks(layer) for bounds in runs)
    return NAN_CODES if any(map(holds_nan, pieces)) else ""


def reaches_top(layer: Layer) -> bool:
    largest = layer.values(layer.tensor("weight")).abs().max()
    return float(largest) >= 0.9 * layer.format.maximum


def lost_scale(problem: str) -> str:
    return f"its codes have {problem}: they were scaled and the scale is missing; get the file with its scale keys"


def wrong_scale(layer: Layer, seen: Sample, problem: str) -> str:
    if inverted_fits(layer, seen):
        return f"its weight would have {problem}, but be sound if divided: the scale is a reciprocal"
    return f"its weight would have {problem}: the scale is of another layer or format, or a placeholder"


def inverted_fits(layer: Layer, seen: Sample) -> bool:
    """Whether the weight is plausible when the scale is inverted."""
    factor = torch.where(seen.raw == 0, torch.ones(()), seen.scaled / seen.raw)
    return not implausible(seen.raw / factor, layer.inputs)


def inverted(layer: Layer) -> bool:
    """Whether only the inverted scale makes a plausible weight."""
    seen = sample(layer)
    return bool(implausible(seen.scaled, layer.inputs)) and inverted_fits(layer, seen)
