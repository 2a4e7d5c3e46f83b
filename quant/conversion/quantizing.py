"""Quantizing one layer of a conversion in pieces: one pass for the scale of all, one for the codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ..checkpoint.read import Checkpoint
from ..checkpoint.sampling import sample
from ..files.writer import Output
from ..recipes.policy import Policy
from ..weights.encode import (
    TRIED,
    blank,
    encode_slabs,
    finite,
    gain_of,
    lengths,
    quantize,
    rotation_group,
    scale_of_scales,
    with_gain,
)
from ..weights.formats import Format
from ..weights.granularity import Granularity, PerBlock, PerTensor, largest
from ..weights.job import SLAB, Job, Search, search_for, slabs
from ..weights.native import native_tensors
from ..weights.rotation import rotate
from ..weights.weight import QuantizedWeight
from .readback import differences, row_runs
from .tasks import Step, Writing
from .values import PIECE, Values


@dataclass(frozen=True)
class Encode(Writing):
    """Values quantized by policy, in two passes over their rows: for the scale of all, and for the codes.

    effort: of EFFORTS; gains: what the search for scales gained, in dB, where there was one.
    """

    values: Values
    policy: Policy
    reason: str
    effort: str = "fast"
    gains: list[float] = field(default_factory=list, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.values.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.info.shape

    @property
    def after(self) -> str:
        return f"{self.format.name} {self.granularity.name}"

    @property
    def format(self) -> Format:
        return self.policy.format

    @property
    def granularity(self) -> Granularity:
        return self.policy.granularity

    @property
    def cost(self) -> int:
        return self.values.info.numel * 6 if self.format.grid else self.values.cost()

    @cached_property
    def shell(self) -> QuantizedWeight:
        return blank(self.format, self.granularity, self.values.matrix)

    @property
    def job(self) -> Job:
        rotation = rotation_group(self.values.matrix[1]) if self.format.rotates else 0
        return Job(self.format, self.granularity, rotation, search=self.search and self.search.of(self.format))

    @property
    def search(self) -> Search | None:
        return search_for(self.effort)

    def weight(self, scale: Tensor, outer: Tensor | None) -> QuantizedWeight:
        """The weight with these scales, its codes on no device."""
        return replace(self.shell, scale=scale, outer=outer)

    def write(self, output: Output, step: Step) -> None:
        read, (rows, columns) = self.values.reader(), self.values.matrix
        if self.format.grid:
            return self.write_whole(output, read(0, rows * columns).view(rows, columns), step)
        amax = self.amax(read)
        job = replace(self.job, outer=scale_of_scales(amax, self.format))
        scales, total = [], torch.zeros(2, dtype=torch.float64)
        self.try_search(self.matrix(read, 0, min(TRIED, rows)))
        for start, stop in self.runs():
            part = self.matrix(read, start, stop)
            codes, scale = encoded(job, part, amax, self.name)
            total += lengths(job, part, codes, scale) if job.searches_outer else 0
            self.put_rows(output, codes, start)
            scales.append(scale)
            step((stop - start) * self.values.read_bytes // rows)
        scale = scales[0] if isinstance(self.granularity, PerTensor) else torch.cat(scales)
        found = self.weight(scale, job.outer)
        found = with_gain(found, total) if job.searches_outer else found
        self.put_rest(output, native_tensors(found, self.prefix))

    def write_whole(self, output: Output, weight: Tensor, step: Step) -> None:
        self.try_search(weight)
        found = quantize(weight, self.format, self.granularity, self.name, self.search)
        tensors = native_tensors(found, self.prefix)
        output.put(f"{self.prefix}weight", tensors[f"{self.prefix}weight"])
        self.put_rest(output, tensors)
        step(self.values.read_bytes)

    def try_search(self, rows: Tensor) -> None:
        gain = gain_of(rows, self.format, self.granularity, self.search)
        self.gains.extend([] if gain is None else [gain])

    def matrix(self, read: Callable[[int, int], Tensor], start: int, stop: int) -> Tensor:
        """Rows [start, stop)."""
        columns = self.values.matrix[1]
        return read(start * columns, stop * columns).view(-1, columns)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Rows that are read at once: whole blocks, and the slabs of quantize."""
        rows, columns = self.values.matrix
        step = self.granularity.rows if isinstance(self.granularity, PerBlock) else 1
        count = max(1, SLAB // columns // step) * step * (PIECE // SLAB)
        return ((start, min(start + count, rows)) for start in range(0, rows, count))

    def amax(self, read: Callable[[int, int], Tensor]) -> Tensor:
        """Of the whole weight, where a scale depends on it."""
        if not (isinstance(self.granularity, PerTensor) or self.format.outer_maximum):
            return torch.ones(())
        found = [largest(self.matrix(read, *run), (0, 1)) for run in self.runs()]
        return finite(torch.stack(found).amax(), self.name)

    def put_rows(self, output: Output, codes: Tensor, start: int) -> None:
        """Rows of codes at row start, filled up with zeros to the columns that are stored, below to the rows."""
        stored = next(info for info in self.infos if info.name == f"{self.prefix}weight")
        columns = stored.numel // stored.shape[0]
        raw = codes.view(torch.uint8)
        raw = torch.nn.functional.pad(raw, (0, columns - raw.shape[1])) if columns > raw.shape[1] else raw
        if start + len(raw) == self.values.matrix[0] < stored.shape[0]:
            raw = torch.cat([raw, raw.new_zeros(stored.shape[0] - start - len(raw), columns)])
        output.put(stored.name, raw.reshape(-1).view(codes.dtype), start * columns)

    def put_rest(self, output: Output, tensors: dict[str, Tensor]) -> None:
        for info in self.infos:
            if info.name != f"{self.prefix}weight":
                output.put(info.name, tensors[info.name])

    def problem(self, result: Checkpoint, everything: bool) -> str:
        layer = result.spec(self.name.removesuffix(".weight") if self.name != "weight" else "")
        read, columns = self.values.reader(), self.values.matrix[1]
        for row, count in row_runs(*self.values.matrix, everything):
            wanted = read(row * columns, row * columns + count).float().view(1, -1)
            wanted = rotate(wanted, self.job.rotation) if self.job.rotation else wanted
            start = row * layer.stored[1]
            values = sample(layer, [(start, start + count)])
            if found := differences(self.format, wanted.flatten(), values):
                return found
        return ""


def encoded(job: Job, rows: Tensor, amax: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Codes and scales of some rows."""
    if isinstance(job.granularity, PerTensor):
        scale = job.scale(amax)  # a search gains nothing for one scale of all, so that no format has factors for it
        return torch.cat([job.codes(job.values(slab), scale) for slab in slabs(rows, job.granularity)]), scale
    finite(largest(rows, (0, 1)), name)
    return encode_slabs(job, rows, amax)
