"""What was written, looked at before it takes its place: by a reader's rules, and beside what it was made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.plausibility import Sample
from ..checkpoint.read import Checkpoint
from ..checkpoint.survey import survey
from ..errors import Refused
from ..files.reader import read_safetensors
from ..files.sidecars import read_scales, read_sidecars
from ..files.stored import Source, Stored
from ..files.writer import Output
from ..text import few
from ..weights.formats import Format

ROWS, RUN = 4, 4096  # rows of a layer that are looked at, and elements of each
SLACK = 1.01  # for roundings of float32 before and after
LONGER = 1 / 32  # that searched scales are made longer, so that the weight keeps its length; 0.008 to 0.015 was seen
NOTHING = 1e-5  # a root mean square that no trained layer has
CODEBOOK = 0.25  # relative error of 4-bit codes whose steps differ from layer to layer


def check_layers(output: Output, dst: Path, layers: Iterable[str]) -> Checkpoint:
    """What was written, as a reader finds it; Refused where it would refuse, or miss one of these layers."""
    result = written(output, dst)
    if lost := [name for name in layers if name not in result]:
        raise Refused(f"{dst}: {few(lost, 3)} would not be read as quantized again; keep them. Nothing was left there.")
    return result


def written(output: Output, dst: Path) -> Checkpoint:
    """What was written, as it will be found at dst beside the files that lie there; Refused as a reader would."""
    stored: dict[str, Stored] = {}
    for slot in output.slots:
        if slot.layout.places:
            stored |= read_safetensors(slot.path).tensors
    scales = read_scales(dst, stored)
    result = Checkpoint(survey(Source({**stored, **scales}, sidecars=read_sidecars(dst), name=str(dst))))
    if not result.verdict.accepted:
        reason = result.verdict.reasons[0]
        raise Refused(f"{dst}: nothing was left there: a reader would refuse it ({reason}); keep such layers.")
    return result


def row_runs(rows: int, columns: int, everything: bool) -> Iterator[tuple[int, int]]:
    """Row and how many of its elements to look at: all, or a start of a few evenly spaced ones."""
    if everything:
        return ((row, columns) for row in range(rows))
    rows_read = sorted({row * (rows - 1) // (ROWS - 1) for row in range(ROWS)})
    return ((row, min(columns, RUN)) for row in rows_read)


def differences(format: Format, wanted: Tensor, read: Sample) -> str:
    """What is wrong with values that a conversion wrote and were read back, "" for nothing."""
    if format.grid:
        # zeros come back as next to nothing: comfy-kitchen's scales of them are tiny, not zero
        relative = float((read.scaled - wanted).norm()) / max(float(wanted.norm()), NOTHING * len(wanted) ** 0.5)
        return f"values {relative:.2f} off" if relative > CODEBOOK else ""
    live = read.raw != 0
    # scaled / raw is the scale, wherever the code is not zero
    scale = torch.where(live, read.scaled / torch.where(live, read.raw, 1), 0)
    error, size = (read.scaled - wanted).abs(), wanted.abs()
    allowed = torch.maximum(format.half_step(size, scale), clipped(format, size, scale)) * SLACK + 1e-6 * size.amax()
    allowed = allowed + LONGER * size if format.factors else allowed
    wrong = live & (error > allowed)
    # a code of zero must stand for a small value
    wrong |= ~live & (size > size.amax() / 2)
    return f"{int(wrong.sum())} of {len(wanted)} values that the format rounds otherwise" if wrong.any() else ""


def clipped(format: Format, size: Tensor, scale: Tensor) -> Tensor:
    """What values lose that a searched scale left outside of its codes; nothing where no search goes so far."""
    largest = format.maximum * scale
    searched = size <= largest / min((*format.factors, 1.0)) * SLACK
    return torch.where(searched, size - largest, 0).clamp(min=0)
