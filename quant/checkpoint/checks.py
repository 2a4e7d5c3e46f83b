"""Numeric checks of one layer, on samples of its codes and on its scales."""

from __future__ import annotations

import re

import torch

from ..errors import AGAIN
from ..files.stored import Source
from .companions import companion_problem
from .kinds import MXFP4, NUNCHAKU_AWQ, NUNCHAKU_FUSED, NUNCHAKU_NVFP4, NVFP4, NVFP4_LOW, W4A8, as_float
from .layer import Layer
from .module import FLOAT8
from .plausibility import (
    NAN_CODES,
    Sample,
    bad_codes,
    bad_scale,
    contradicted,
    holds_nan,
    implausible,
    limit,
    negligible,
)
from .sampling import RUN, chunks, run_starts, sample, scale_values

LARGEST = 1 << 25  # elements of a layer that is read whole
READ = 3  # layers read whole to settle what shapes cannot
DOUBTFUL = (1e-4, 64.0)  # amax by the scale alone outside of which a layer is looked at in any case
# kinds whose scales may be zero, of blocks or rows of zeros, or of groups that only fill up
ZEROS = (NVFP4, NVFP4_LOW, W4A8, NUNCHAKU_AWQ, NUNCHAKU_NVFP4, NUNCHAKU_FUSED)
SMALLEST = 1e-8  # comfy-kitchen's smallest scale of codes none of which stands for zero
# large or zero-initialised by design; section "layers usually kept in high precision" of the catalogue
EXEMPT = re.compile(
    r"embed|shared|relative_attention_bias|modulation|adaln|adaLN|_mod\.|time_in|guidance_in|vector_in|final_layer"
    r"|proj_out|lm_head|\bhead\b|norm|scale_shift|pos_|codebook|lora"
)


def scale_problem(layer: Layer, everything: bool = False) -> tuple[str, bool]:
    """What is wrong with a layer's scales by themselves, and whether they make its codes worth a look."""
    if layer.plain:
        return companion_problem(layer), False
    scale = scale_values(layer, everything)
    problem = bad_scale(scale, zeros=layer.kind in ZEROS)
    low, high = DOUBTFUL
    largest = float(scale.max()) * layer.format.maximum
    return problem or companion_problem(layer) or lost_blocks(layer), not low < largest < high


def lost_blocks(layer: Layer) -> str:
    """What NVFP4 cannot hold of MXFP4's scales, which reach further; blocks of zeros may have any."""
    if layer.kind is not MXFP4:
        return ""
    scale = as_float(layer.tensor("scale").view(torch.uint8))
    low = scale < float(scale.max()) * 2.0**-17
    if not bool(low.any()):
        return ""
    values = layer.values(layer.tensor("weight")).view(*scale.shape, 32)
    lost = bool((low & values.ne(0).any(-1)).any())
    return "its block scales reach further than the 17 powers of two that NVFP4 holds them in" if lost else ""


def code_problem(layer: Layer, everything: bool = False) -> str:
    """What is wrong with a layer's codes and their scale, "" for nothing that the numbers show."""
    problem = sample_problem(layer, sample(layer), low=not layer.plain)
    parts = chunks(layer) if everything else []
    problem = problem or next((p for runs in parts if (p := sample_problem(layer, sample(layer, runs)))), "")
    return problem or outlier_problem(layer)


def outlier_problem(layer: Layer) -> str:
    """The same where the largest scale is, which a sample may miss."""
    if layer.plain or layer.kind.tile > 1 or (grid := layer.grid()).numel() == 1:
        return ""
    (rows, columns), most, width = layer.fits[0].tile(layer.stored), int(grid.argmax()), layer.stored[1]
    first = most % grid.shape[1] * columns
    start = most // grid.shape[1] * rows * width + first
    seen = sample(layer, [(start, start + min(columns, RUN, width - first))])
    largest = float(seen.scaled.abs().max())
    sound = largest <= limit("outlier") and not implausible(seen.scaled, layer.inputs, exempt=True)
    return "" if sound else f"one of its scales makes weights as large as {largest:.3g}: it was damaged"


def handed_on_problem(source: Source, key: str) -> str:
    """What is wrong with codes without a scale that are no matrix, such as those of convolutions."""
    raw = torch.cat([source.piece(key, *bounds) for bounds in run_starts(source[key].numel)]).float()
    problem = "" if raw.numel() < limit("few") else implausible(raw, 1, exempt=True)
    return problem and lost_scale(problem)


def sample_problem(layer: Layer, seen: Sample, low: bool = False) -> str:
    """The same by one sample; low: whether it is large enough to be called too small."""
    if broken := bad_codes(seen.raw) or beyond(layer, seen) or misnamed(layer, seen):
        return broken
    if low and not seen.zero and not bool(seen.scaled.any()):
        return (
            "its codes are not zero but their scales are: the scales are of another layer, or were never filled in; "
            + AGAIN
        )
    if layer.format.grid and float(seen.scaled.abs().max()) <= SMALLEST:
        return ""
    exempt = bool(EXEMPT.search(layer.name)) or len(layer.full) > 2
    if seen.whole is not None and negligible(seen.scaled, layer.inputs):
        return f"its codes vanish beside what is added to them: the scales are of another layer; {AGAIN}"
    whole = seen.scaled if seen.whole is None else seen.whole
    problem = implausible(whole, layer.inputs, exempt, low and seen.whole is None)
    if not problem:
        return ""
    if layer.plain:
        # an embedding may be this large, but only absmax scaling reaches the very last code
        return "" if exempt and not reaches_top(layer) else lost_scale(problem)
    return wrong_scale(layer, seen, problem)


def beyond(layer: Layer, seen: Sample) -> str:
    """Codes that their format has room for and no producer writes: a marker names one, the codes are another's."""
    offset = layer.kind.offset is not None or layer.module.key("codebook") is not None
    share = 0.0 if offset else float((seen.raw.abs() > layer.format.maximum).float().mean())
    return "" if share <= limit("beyond") else (
        f"{share:.0%} of its codes are beyond {layer.format.maximum:g}, which no {layer.format.name} is: "
        f"its marker is of another format; {AGAIN}"
    )  # fmt: skip


def misnamed(layer: Layer, seen: Sample) -> str:
    """Codes of one byte whose two signs show that they are floats where the file says whole numbers, or the reverse."""
    as_stored = layer.kind.per_element == 1 and layer.kind.offset is None and layer.module.key("codebook") is None
    if not as_stored or layer.module.dtype() not in FLOAT8 | {"I8"}:
        return ""
    whole = layer.format.dtype is torch.int8
    if not contradicted(seen.raw.to(layer.format.dtype).view(torch.uint8), whole):
        return ""
    said, are = ("INT8", "FP8") if whole else ("FP8", "INT8")
    return f"it is said to be {said}, but its codes are {are} by how both signs lie in them; {AGAIN}"


def relabelled(layer: Layer) -> str:
    """What a whole layer of e4m3 codes shows that a sample misses: one NaN is enough."""
    stored_so = layer.format.dtype is torch.float8_e4m3fn and layer.kind.per_element == 1
    if not stored_so or layer.stored[0] * layer.stored[1] > LARGEST:
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
        return f"its weight would have {problem}, but be sound if divided: the scale is a reciprocal; {AGAIN}"
    return f"its weight would have {problem}: the scale is of another layer or format, or a placeholder; {AGAIN}"


def inverted_fits(layer: Layer, seen: Sample) -> bool:
    """Whether the weight is plausible when the scale is inverted."""
    factor = torch.where(seen.raw == 0, torch.ones(()), seen.scaled / seen.raw)
    return not implausible(seen.raw / factor, layer.inputs)


def inverted(layer: Layer) -> bool:
    """Whether only the inverted scale makes a plausible weight."""
    seen = sample(layer)
    return bool(implausible(seen.scaled, layer.inputs)) and inverted_fits(layer, seen)
