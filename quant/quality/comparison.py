"""How far the dequantized weights of two checkpoints are apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, log10, sqrt
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.read import Checkpoint, read_checkpoint
from ..errors import Refused
from ..files.header import TensorInfo
from ..files.stored import Source
from ..names import prefixes_of
from ..text import text_table

COLUMNS = ("layer", "shape", "relative error", "SQNR dB", "max error")
Progress = Callable[[Iterable[str], int], Iterable[str]]


@dataclass(frozen=True)
class Difference:
    """Of one tensor, b against a. signal, noise: sums of squares of a and b - a; maximum: largest ``|b - a|``;
    format_a, format_b: what each file holds it as.
    """

    name: str
    shape: tuple[int, ...]
    signal: float
    noise: float
    maximum: float
    format_a: str = ""
    format_b: str = ""

    @property
    def relative(self) -> float:
        """Frobenius norm of b - a over that of a."""
        return sqrt(self.noise / self.signal) if self.signal else inf if self.noise else 0.0

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise in dB; infinite for equal tensors."""
        if not self.noise:
            return inf
        return 10 * log10(self.signal / self.noise) if self.signal else -inf

    def figures(self) -> dict[str, float | None]:
        """For JSON, which has no infinity: None."""
        values = {"relative_error": self.relative, "sqnr_db": self.sqnr, "max_error": self.maximum}
        return {key: value if isfinite(value) else None for key, value in values.items()}


@dataclass(frozen=True)
class Comparison:
    """layers: those in both, by the name without a prefix; only_a, only_b: the others."""

    a: str
    b: str
    layers: tuple[Difference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def overall(self) -> Difference:
        """All layers as one."""
        layers = self.layers
        signal, noise = sum(d.signal for d in layers), sum(d.noise for d in layers)
        return Difference("overall", (), signal, noise, max(d.maximum for d in layers))

    def to_json(self) -> dict[str, Any]:
        layers = [described(d) | d.figures() for d in self.layers]
        only = {"only_a": list(self.only_a), "only_b": list(self.only_b)}
        return {"a": self.a, "b": self.b, "overall": self.overall.figures(), "layers": layers, **only}

    def table(self) -> str:
        """One line a layer, then all of them as one, then the layers that only one file has."""
        only = [f"only in {self.a}: {name}" for name in self.only_a]
        only += [f"only in {self.b}: {name}" for name in self.only_b]
        return "\n".join((text_table(COLUMNS, [cells(d) for d in (*self.layers, self.overall)]), *only))


def described(difference: Difference) -> dict[str, Any]:
    formats = {"format_a": difference.format_a, "format_b": difference.format_b}
    return {"name": difference.name, "shape": list(difference.shape), **formats}


def cells(difference: Difference) -> list[str]:
    shape = "x".join(map(str, difference.shape))
    return [difference.name, shape, *(f"{v:.3g}" for v in (difference.relative, difference.sqnr, difference.maximum))]


def compare(
    a: str | os.PathLike[str] | Source,
    b: str | os.PathLike[str] | Source,
    progress: Progress = lambda names, count: names,
) -> Comparison:
    """b against a, every floating-point tensor, two in memory at a time. Refused if shapes differ or no name agrees.

    >>> quant.compare(path, path).overall.relative
    0.0
    """
    return compare_checkpoints(read_checkpoint(a), read_checkpoint(b), progress)


def compare_checkpoints(first: Checkpoint, second: Checkpoint, progress: Progress) -> Comparison:
    """The second against the first, as compare does."""
    ours, theirs = matched(readers(first), readers(second))
    shared = [name for name in ours if name in theirs]
    names = (first.source.name, second.source.name)
    if not shared:
        raise Refused(f"{names[1]}: shares no layer with {names[0]}; compare files of one model.")
    for name in shared:
        check_shapes(name, ours[name].shape, theirs[name].shape, names)
    layers = tuple(difference(name, ours[name], theirs[name]) for name in progress(shared, len(shared)))
    only = [tuple(n for n in x if n not in y) for x, y in ((ours, theirs), (theirs, ours))]
    return Comparison(*names, layers, *only)


@dataclass(frozen=True)
class Held:
    """A tensor of a checkpoint as values. format: what it is stored as; read: its values, decoded anew each time."""

    shape: tuple[int, ...]
    format: str
    read: Callable[[], Tensor]


Readers = Mapping[str, Held]


def readers(ckpt: Checkpoint) -> Readers:
    """What is compared of a checkpoint: layer name, without ``.weight``, -> a reader of its values."""
    infos = {name: ckpt.tensors.info(name) for name in ckpt.tensors}
    floating = {name: info for name, info in infos.items() if info.dtype.lstrip("B").startswith("F")}
    others = {
        name.removesuffix(".weight"): Held(info.shape, dtype_name(info), partial(ckpt.tensors.__getitem__, name))
        for name, info in floating.items()
    }
    return {name: quantized(ckpt, name) for name in ckpt} | others


def quantized(ckpt: Checkpoint, name: str) -> Held:
    layer = ckpt.spec(name)
    return Held(layer.full_shape, layer.stored_as, lambda: ckpt[name].dequantize().reshape(layer.full_shape))


def dtype_name(info: TensorInfo) -> str:
    return str(info.torch_dtype or info.dtype).removeprefix("torch.")


def check_shapes(name: str, a: tuple[int, ...], b: tuple[int, ...], files: tuple[str, str]) -> None:
    if a != b:
        shapes = f"{list(a)} in {files[0]} and {list(b)} in {files[1]}"
        raise Refused(f"{name}: is {shapes}; compare files of one model.")


def difference(name: str, a: Held, b: Held) -> Difference:
    """The figures of one tensor, in float32 with sums in float64."""
    values = a.read().float()
    error = b.read().float() - values
    maximum = float(error.abs().max()) if error.numel() else 0.0
    return Difference(
        name=name,
        shape=a.shape,
        signal=squares(values),
        noise=squares(error),
        maximum=maximum,
        format_a=a.format,
        format_b=b.format,
    )


def squares(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2


##### Names


def matched(a: Readers, b: Readers) -> tuple[Readers, Readers]:
    """Both without the prefixes that make most names agree."""
    pairs = [(p, q) for p in prefixes(a) for q in prefixes(b)]
    p, q = max(pairs, key=lambda pair: len(stripped(a, pair[0]).keys() & stripped(b, pair[1]).keys()))
    return stripped(a, p), stripped(b, q)


def prefixes(names: Readers) -> list[str]:
    """The known ones that occur, and the one that all names share."""
    shared = os.path.commonprefix(list(names))
    known = [prefix for name in names for prefix in prefixes_of(name)]
    return list(dict.fromkeys((*known, shared[: shared.rfind(".") + 1])))


def stripped(readers: Readers, prefix: str) -> Readers:
    return {name.removeprefix(prefix): read for name, read in readers.items()}
