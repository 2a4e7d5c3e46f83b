"""The quality of one file against another by their weights alone: no model is run."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import PurePath

from ..checkpoint.read import Checkpoint, read_checkpoint
from ..files.stored import Source
from ..text import few
from ..versions import versions
from .comparison import Comparison, Difference, Progress, compare_checkpoints
from .quality import LayerError, Quality, Side

SHOWN = 5  # layers in a sentence


def compare_weights(
    a: str | os.PathLike[str] | Source,
    b: str | os.PathLike[str] | Source,
    progress: Progress = lambda names, count: names,
) -> Quality:
    """b against a by their dequantized weights, with formats and sizes. Refused where they are not of one model.

    >>> quant.compare_weights(path, path).metrics["weight_error"]
    0.0
    """
    first, second = read_checkpoint(a), read_checkpoint(b)
    found = compare_checkpoints(first, second, progress)
    return Quality(
        side_of(first, [difference.format_a for difference in found.layers]),
        side_of(second, [difference.format_b for difference in found.layers]),
        metrics_of(found),
        layers=tuple(layer_error(difference) for difference in found.layers if shown(difference)),
        warnings=tuple(alone(found)),
        settings={"dialect of A": first.verdict.dialect, "dialect of B": second.verdict.dialect},
        versions=versions("torch", "safetensors"),
        device="cpu",
    )


def side_of(ckpt: Checkpoint, formats: list[str]) -> Side:
    counts = Counter(formats).most_common()
    return Side(file_name(ckpt.source), ", ".join(f"{n} {name}" for name, n in counts), ckpt.source.total_bytes)


def file_name(source: Source) -> str:
    """What a file or folder is called, without the folders above it."""
    return source.path.name if source.path else PurePath(source.name).name


def metrics_of(found: Comparison) -> dict[str, float]:
    overall, worst = found.overall, min(difference.sqnr for difference in found.layers)
    return {"weight_error": overall.relative, "weight_sqnr": overall.sqnr, "worst_layer": worst}


def shown(difference: Difference) -> bool:
    """Biases and norms that are the same in both say nothing."""
    return len(difference.shape) > 1 or difference.noise != 0


def layer_error(difference: Difference) -> LayerError:
    formats = difference.format_a, difference.format_b
    return LayerError(difference.name, difference.shape, *formats, difference.sqnr, difference.relative)


def alone(found: Comparison) -> list[str]:
    """What only one file has, a sentence each."""
    sides = (("A", found.only_a), ("B", found.only_b))
    return [f"{len(names)} tensors are in {side} alone: {few(names, SHOWN)}." for side, names in sides if names]
