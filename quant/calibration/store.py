"""A calibration as a file: moments and factors of each layer, and how to tell whether it is of this model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from ..errors import Refused
from ..files.header import TensorInfo, as_object, info_of
from ..files.open import open_source
from ..files.stored import Source
from ..files.writer import write_safetensors
from ..names import without_prefixes
from ..records import is_kind, record_of
from .moments import SKETCHED, Moments

HEADER = "scaled_fp8_calibration"
VERSION = 1
SAMPLED = 64  # values of a weight that are kept to know it again
# part of a record -> its dtype and shape; the moments' shape is the model's, a factor may be missing
PARTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "shape": ("I64", (2,)), "sample": ("F32", (SAMPLED,)), "amax": ("F32", ()), "rows": ("I64", ()),
}  # fmt: skip
OTHER = 0.5  # their relative difference from which on it is another weight; four bits and LoRAs stay far below


@dataclass(frozen=True)
class Facts:
    """How a calibration came about, added up over runs. steps: calls of the model; prompts: samplings.

    levels: format -> error of the image over what the layers' factors tell of it, of many layers in this format at
    once; none where that was not measured, and then 1.
    """

    steps: int = 0
    prompts: int = 0
    levels: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Facts) -> Facts:
        levels = {**self.levels, **other.levels}
        return Facts(self.steps + other.steps, self.prompts + other.prompts, levels)

    def sound(self) -> bool:
        levels = self.levels.values()
        return min(self.steps, self.prompts) >= 0 and all(is_kind(level, float) and level > 0 for level in levels)

    def line(self) -> str:
        return f"{self.steps} steps of {self.prompts} samplings"


@dataclass(frozen=True)
class Record:
    """What is known of one layer. shape: ``[out, in]``; sample: some of its weight's values, float32 ``[64]``.

    factor: relative error of the image for each unit of relative error of this layer's output; None: not measured.
    levels: of the calibration's Facts.
    """

    shape: tuple[int, int]
    sample: Tensor
    moments: Moments
    factor: float | None = None
    levels: Mapping[str, float] = field(default_factory=dict)

    def tensors(self, name: str) -> dict[str, Tensor]:
        found = {
            "shape": torch.tensor(self.shape), "sample": self.sample, "squares": self.moments.squares,
            "amax": self.moments.amax, "rows": torch.tensor(self.moments.rows),
        }  # fmt: skip
        found |= {} if self.factor is None else {"factor": torch.tensor(self.factor)}
        found |= {} if self.moments.held_out is None else {"held_out": self.moments.held_out}
        return {f"{name}.{part}": tensor.cpu() for part, tensor in found.items()}


class Calibration(Mapping[str, Record]):
    """Layer name without prefixes -> Record, read anew each time it is asked for; facts: how it came about."""

    def __init__(self, source: Source, facts: Facts) -> None:
        self.source, self.facts = source, facts
        self.names = tuple(name.removesuffix(".shape") for name in source if name.endswith(".shape"))

    def __getitem__(self, name: str) -> Record:
        name = without_prefixes(name)
        if name not in self:
            raise KeyError(name)
        rows, columns = self.part(name, "shape").tolist()
        sample, seen = self.part(name, "sample"), int(self.part(name, "rows"))
        held_out = self.part(name, "held_out") if f"{name}.held_out" in self.source else None
        moments = Moments(self.part(name, "squares"), self.part(name, "amax"), seen, columns, held_out)
        factor = float(self.part(name, "factor")) if f"{name}.factor" in self.source else None
        if not (sound(moments) and sample.isfinite().all() and 0 <= (factor or 0) < inf):
            raise Refused(
                f"{self.source.name}: what {name} was fed has NaN, infinity or a negative square; calibrate again."
            )
        return Record((rows, columns), sample, moments, factor, self.facts.levels)

    def __repr__(self) -> str:
        return f"{self.source.path}: {self.facts.line()}, {len(self)} layers"

    def __deepcopy__(self, memo: dict[int, object]) -> Calibration:
        """Itself: it only reads."""
        return self

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Another process opens the file itself."""
        return read_calibration, (str(self.source.path),)

    def part(self, name: str, part: str) -> Tensor:
        return self.source.tensor(f"{name}.{part}")

    def __contains__(self, name: object) -> bool:
        return f"{without_prefixes(str(name))}.shape" in self.source

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def of(self, name: str, weight: Tensor) -> Record | None:
        """What is known of this layer, None for one that never ran; Refused if its weight is another one."""
        if name not in self:
            return None
        record = self[name]
        if record.shape != tuple(weight.shape):
            raise Refused(
                f"{self.source.name}: {name} is {list(record.shape)} there and {list(weight.shape)} in this model; "
                "take the calibration of this model, or calibrate it."
            )
        if not alike(record.sample, weight):
            raise Refused(
                f"{self.source.name}: {name} had other weights when it was calibrated; take the calibration of this "
                "model, or calibrate it."
            )
        return record

    def check(self, names: Iterable[str]) -> None:
        """Refused where not one of the layers is known."""
        if not any(name in self for name in names):
            raise Refused(f"{self.source.name}: is of another model: it knows none of this model's layers.")


def sample_of(weight: Tensor) -> Tensor:
    """Some values of a weight, evenly spread, float32 ``[64]``."""
    flat = weight.detach().reshape(-1)
    at = torch.linspace(0, flat.numel() - 1, SAMPLED, dtype=torch.float64).long()
    return flat[at.to(flat.device)].float().cpu()


def alike(sample: Tensor, weight: Tensor) -> bool:
    return float((sample_of(weight) - sample).norm()) <= OTHER * float(sample.norm())


def sound(moments: Moments) -> bool:
    """Whether sums of squares, the largest magnitude and how many rows they are of can be what they say."""
    squares = moments.squares
    held_out = moments.amax if moments.held_out is None else moments.held_out
    finite = all(bool(part.isfinite().all()) for part in (squares, moments.amax, held_out))
    positive = bool((squares.diagonal(dim1=1, dim2=2) >= 0).all())
    return finite and positive and float(moments.amax) >= 0 and moments.rows >= 0


##### Files


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """A calibration of this pack; Refused for any other file, and for one that is damaged."""
    source = open_source(path)
    source.name = Path(path).name
    try:
        header = as_object(source.metadata[HEADER].encode())
        version, facts = header.pop("version"), record_of(Facts, header)
        if not (is_kind(version, int) and version >= 0 and facts.sound()):
            raise ValueError
    except (KeyError, ValueError, TypeError):
        raise Refused(
            f"{source.name}: is no calibration; make one with Calibrate Model and Save Calibration."
        ) from None
    if version > VERSION:
        raise Refused(f"{source.name}: is of a newer version of this pack; update it, or calibrate again.")
    found = Calibration(source, facts)
    if not found:
        raise Refused(f"{source.name}: knows no layer; calibrate again.")
    for name in found:
        check_parts(source, name)
    return found


def check_parts(source: Source, name: str) -> None:
    """Refused where a layer's tensors are not those of a Record, or do not go together."""
    infos = {part: source.get(f"{name}.{part}") for part in (*PARTS, "squares", "factor", "held_out")}
    squares, factor, held_out = infos["squares"], infos["factor"], infos["held_out"]
    whole = all((info := infos[part]) is not None and kind_of(info) == kind for part, kind in PARTS.items())
    moments = squares is not None and squares.dtype == "F32" and len(squares.shape) == 3
    if not (whole and moments and (factor is None or kind_of(factor) == ("F32", ()))):
        raise Refused(damaged(source, name))
    rows, columns = source.tensor(f"{name}.shape").tolist()
    blocks, size, other = squares.shape  # type: ignore[union-attr]
    if held_out is not None and kind_of(held_out) != ("F32", (SKETCHED, columns)):
        raise Refused(damaged(source, name))
    if size != other or min(rows, columns) < 1 or not 0 <= blocks * size - columns < size:
        raise Refused(damaged(source, name))


def kind_of(info: TensorInfo) -> tuple[str, tuple[int, ...]]:
    return info.dtype, tuple(info.shape)


def damaged(source: Source, name: str) -> str:
    return f"{source.name}: {name} is damaged there; calibrate again."


def write_calibration(path: Path, records: Mapping[str, Record], facts: Facts) -> None:
    """Write records, one in memory at a time; the file appears whole or not at all."""
    header = json.dumps({"version": VERSION, **asdict(facts)})
    plan = [info for name in records for info in infos_of(name, records[name])]
    tensors = ((key, tensor) for name in records for key, tensor in records[name].tensors(name).items())
    write_safetensors(path, plan, tensors, {HEADER: header})


def infos_of(name: str, record: Record) -> list[TensorInfo]:
    return [info_of(key, tensor.dtype, tensor.shape) for key, tensor in record.tensors(name).items()]


class Added(Mapping[str, Record]):
    """Two calibrations of one model as one, layer by layer as they are asked for; factors are the later one's."""

    def __init__(self, before: Calibration, since: Mapping[str, Record]) -> None:
        self.before, self.since = before, since
        for name, record in since.items():
            if name in before and not alike(before[name].sample, record.sample):
                raise Refused(f"{before.source.name}: is of another model; give this calibration another name.")

    def __getitem__(self, name: str) -> Record:
        if name not in self.before or name not in self.since:
            return self.since[name] if name in self.since else self.before[name]
        old, new = self.before[name], self.since[name]
        if old.moments.squares.shape != new.moments.squares.shape:
            raise Refused(f"{self.before.source.name}: was made with another memory limit; give this one another name.")
        factor = old.factor if new.factor is None else new.factor
        return replace(new, moments=old.moments + new.moments, factor=factor)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self.before, *self.since)))

    def __len__(self) -> int:
        return len({*self.before, *self.since})


class Factored(Mapping[str, Record]):
    """A calibration with factors that were measured since, layer by layer as they are asked for."""

    def __init__(self, before: Calibration, factors: Mapping[str, float]) -> None:
        self.before = before
        self.factors = {without_prefixes(name): factor for name, factor in factors.items()}

    def __getitem__(self, name: str) -> Record:
        record = self.before[name]
        return replace(record, factor=self.factors.get(without_prefixes(name), record.factor))

    def __iter__(self) -> Iterator[str]:
        return iter(self.before)

    def __len__(self) -> int:
        return len(self.before)


def save_calibration(path: Path, since: Mapping[str, Record], facts: Facts) -> Calibration:
    """Add what was seen since to the file of that name, which is made where there is none; what it holds now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        before = read_calibration(path)
        write_calibration(path, Added(before, since), before.facts + facts)
    else:
        write_calibration(path, since, facts)
    return read_calibration(path)
