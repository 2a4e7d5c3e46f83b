"""The kinds of work that a conversion is made of: each says what it writes, writes it in pieces, and checks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite, prod
from typing import Protocol

import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .encode import SLAB, Job, encode_slabs, finite, quantize, rotation_group, scale_of_scales, slabs
from .formats import Format
from .granularity import Granularity, PerBlock, PerTensor, largest
from .header import TensorInfo, info_of
from .policy import Policy
from .readback import differences, row_runs
from .refusal import Refused
from .sampling import sample
from .saving import description, native_tensors
from .weight import QuantizedWeight, rotate
from .writer import Output

PIECE = 4 * SLAB  # elements read at once
Step = Callable[[int], None]  # told of bytes of the source as they are done


class Task(Protocol):
    """One tensor or layer of the source. name: its weight's key; after: what it becomes; reason: why.

    cost: bytes held in memory at once; marker: ComfyUI's description of the layer, if the result has one.
    """

    @property
    def name(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def after(self) -> str: ...
    @property
    def cost(self) -> int: ...
    @property
    def infos(self) -> list[TensorInfo]: ...
    @property
    def marker(self) -> dict[str, object] | None: ...
    def write(self, output: Output, step: Step) -> None: ...
    def problem(self, result: Checkpoint, everything: bool) -> str: ...


##### Tensors of the source, quantized or not, as values


@dataclass(frozen=True)
class Values:
    """A tensor of a checkpoint as high-precision values, read in pieces. layer: name of the quantized layer it is."""

    ckpt: Checkpoint
    name: str
    layer: str | None = None

    @cached_property
    def info(self) -> TensorInfo:
        if self.layer is None:
            return self.ckpt.tensors.info(self.name)
        return info_of(self.name, torch.float32, self.ckpt.spec(self.layer).full_shape)

    @property
    def before(self) -> str:
        return self.info.dtype if self.layer is None else format_of(self.ckpt, self.layer)

    @property
    def read_bytes(self) -> int:
        per = 1 if self.layer is not None else self.info.nbytes // max(1, self.info.numel)
        return self.info.numel * per

    @property
    def matrix(self) -> tuple[int, int]:
        return (self.info.shape[0], prod(self.info.shape[1:]))

    @property
    def whole(self) -> bool:
        """Whether it is decoded at once rather than read in pieces."""
        return self.layer is not None or self.name in self.ckpt.tensors.bias_scales

    def tensor(self) -> Tensor:
        return self.ckpt.tensors[self.name] if self.layer is None else self.ckpt[self.layer].dequantize()

    def reader(self) -> Callable[[int, int], Tensor]:
        """What reads the flat elements [start, stop)."""
        if self.whole:
            flat = self.tensor().reshape(-1)
            return lambda start, stop: flat[start:stop]
        key = self.ckpt.tensors.keys_of[self.name]
        return lambda start, stop: self.ckpt.source.piece(key, start, stop)

    def cost(self) -> int:
        return self.info.numel * 12 if self.whole else PIECE * 16


def format_of(ckpt: Checkpoint, layer: str) -> str:
    spec = ckpt.spec(layer)
    return f"{spec.format.name} {'without scale' if spec.plain else spec.granularity.name}"


def pieces(total: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + PIECE, total)) for start in range(0, total, PIECE))


##### Values in high precision


@dataclass(frozen=True)
class Cast:
    """Values written in dtype, None for their own."""

    values: Values
    dtype: torch.dtype | None
    reason: str

    @property
    def name(self) -> str:
        return self.values.name

    @property
    def after(self) -> str:
        return self.infos[0].dtype

    @property
    def cost(self) -> int:
        return self.values.cost()

    @property
    def infos(self) -> list[TensorInfo]:
        info = self.values.info
        return [info if self.dtype is None else info_of(info.name, self.dtype, info.shape)]

    @property
    def marker(self) -> None:
        return None

    def write(self, output: Output, step: Step) -> None:
        read, total = self.values.reader(), self.values.info.numel
        for start, stop in pieces(total):
            output.put(self.name, self.converted(read(start, stop)), start)
            step((stop - start) * self.values.read_bytes // total)

    def converted(self, values: Tensor) -> Tensor:
        if self.dtype is None or values.dtype == self.dtype:
            return values
        damaged = self.values.layer is not None or values.dtype.itemsize == 1
        return cast(values.float() if values.dtype.itemsize == 1 else values, self.dtype, self.name, damaged)

    def problem(self, result: Checkpoint, everything: bool) -> str:
        total, key = self.values.info.numel, result.tensors.keys_of.get(self.name, self.name)
        read = self.values.reader()
        for start, stop in pieces(total) if everything else sample_runs(total):
            wanted, got = self.converted(read(start, stop)), result.source.piece(key, start, stop)
            if not torch.equal(wanted.view(torch.uint8), got.view(torch.uint8)):
                return "other bytes than were written"
        return ""


def sample_runs(total: int) -> Iterator[tuple[int, int]]:
    return ((at, min(at + 4096, total)) for at in sorted({0, total // 2, max(0, total - 4096)}) if at < total)


def cast(weight: Tensor, dtype: torch.dtype, name: str, damaged: bool = True) -> Tensor:
    """Values in dtype; refused where a finite one does not fit, and where one is not finite and that is damage."""
    largest = max(map(abs, map(float, weight.aminmax()))) if weight.numel() else 0.0
    if not isfinite(largest):
        if damaged:
            raise Refused(f"{name}: the weight has NaN or infinity; the file is damaged, fetch it again.")
        finite = weight[weight.isfinite()]
        largest = float(finite.abs().amax()) if finite.numel() else 0.0
    if largest > torch.finfo(dtype).max:
        raise Refused(f"{name}: the weight reaches {largest:.4g}, too much for {dtype}; choose bfloat16 or float32.")
    return weight.to(dtype)


##### Layers that are quantized already


@dataclass(frozen=True)
class Pass:
    """A quantized layer written as it is, in ComfyUI's form where it has one."""

    ckpt: Checkpoint
    layer: str
    reason: str

    @property
    def name(self) -> str:
        return self.ckpt.weight_key(self.layer)

    @property
    def prefix(self) -> str:
        return self.name.removesuffix("weight")

    @property
    def after(self) -> str:
        return format_of(self.ckpt, self.layer)

    @property
    def cost(self) -> int:
        return prod(self.ckpt.spec(self.layer).shape) * 3

    @cached_property
    def shell(self) -> QuantizedWeight:
        """The weight without its codes."""
        return shell(self.ckpt, self.layer)

    @cached_property
    def infos(self) -> list[TensorInfo]:
        return infos_of(self.shell, self.prefix, self.ckpt.spec(self.layer).full_shape)

    @property
    def marker(self) -> dict[str, object]:
        return description(self.shell)

    def write(self, output: Output, step: Step) -> None:
        tensors = native_tensors(self.ckpt[self.layer], self.prefix)
        for info in self.infos:
            output.put(info.name, tensors[info.name].reshape(info.shape))
        step(prod(self.ckpt.spec(self.layer).shape))

    def problem(self, result: Checkpoint, everything: bool) -> str:
        wanted, got = self.ckpt[self.layer], result[self.layer]
        same = torch.equal(wanted.codes.view(torch.uint8), got.codes.view(torch.uint8))
        return "" if same and torch.allclose(wanted.scale, got.scale, rtol=1e-6, atol=0) else "other codes or scales"


def shell(ckpt: Checkpoint, name: str) -> QuantizedWeight:
    """A layer's weight with all but its codes, which are on no device."""
    spec = ckpt.spec(name)
    grid = spec.grid().T if spec.turned else spec.grid()
    scale = grid[: spec.scale_shape[0], : spec.scale_shape[1]] if grid.numel() > 1 else grid
    scale = scale.contiguous().reshape(spec.scale_shape)
    return QuantizedWeight(
        spec.format, no_codes(spec.format, spec.shape), scale, spec.granularity, spec.shape, spec.input_scale(scale),
        spec.optional("smooth"), spec.rotation, spec.outer(spec.shape[0]), spec.optional("codebook"),
    )  # fmt: skip


def no_codes(format: Format, shape: tuple[int, int]) -> Tensor:
    return torch.empty((shape[0], shape[1] // format.per_byte), dtype=format.dtype, device="meta")


def infos_of(weight: QuantizedWeight, prefix: str, shape: tuple[int, ...]) -> list[TensorInfo]:
    """What a weight is saved as; shape: its own, which a convolution's codes have too."""
    tensors = native_tensors(weight, prefix)
    whole = len(shape) > 2 and weight.format.per_byte == 1
    shapes = {name: shape if whole and name == f"{prefix}weight" else t.shape for name, t in tensors.items()}
    return [info_of(name, tensor.dtype, shapes[name]) for name, tensor in tensors.items()]


##### Layers to quantize


@dataclass(frozen=True)
class Encode:
    """Values quantized by policy, in two passes over their rows: for the scale of all, and for the codes."""

    values: Values
    policy: Policy
    reason: str

    @property
    def name(self) -> str:
        return self.values.name

    @property
    def prefix(self) -> str:
        return self.name.removesuffix("weight")

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
        rows = self.values.matrix[0]
        scale = torch.empty(self.granularity.scale_shape(self.values.matrix), device="meta")
        weight = self.weight(scale, torch.empty((rows, 1) if self.format.grid else (), device="meta"))
        return replace(weight, codebook=torch.empty(16, device="meta") if self.format.grid else None)

    @cached_property
    def infos(self) -> list[TensorInfo]:
        return infos_of(self.shell, self.prefix, self.values.info.shape)

    @property
    def marker(self) -> dict[str, object]:
        return description(self.shell)

    @property
    def job(self) -> Job:
        rotation = rotation_group(self.values.matrix[1]) if self.format.rotates else 0
        return Job(self.format, self.granularity, rotation)

    def weight(self, scale: Tensor, outer: Tensor | None) -> QuantizedWeight:
        """The weight with these scales, its codes on no device."""
        shape = self.values.matrix
        codes, rotation = no_codes(self.format, shape), self.job.rotation
        kept = outer if self.format.outer_maximum or self.format.grid else None
        return QuantizedWeight(self.format, codes, scale, self.granularity, shape, rotation=rotation, outer=kept)

    def write(self, output: Output, step: Step) -> None:
        read, (rows, columns) = self.values.reader(), self.values.matrix
        if self.format.grid:
            return self.write_whole(output, read(0, rows * columns).view(rows, columns), step)
        amax = self.amax(read)
        job = replace(self.job, outer=scale_of_scales(amax, self.format))
        scales = []
        for start, stop in self.runs():
            codes, scale = encoded(job, self.matrix(read, start, stop), amax, self.name)
            self.put_rows(output, codes, start)
            scales.append(scale)
            step((stop - start) * self.values.read_bytes // rows)
        scale = scales[0] if isinstance(self.granularity, PerTensor) else torch.cat(scales)
        self.put_rest(output, native_tensors(self.weight(scale, job.outer), self.prefix))

    def write_whole(self, output: Output, weight: Tensor, step: Step) -> None:
        found = quantize(weight, self.format, self.granularity, self.name)
        tensors = native_tensors(found, self.prefix)
        output.put(f"{self.prefix}weight", tensors[f"{self.prefix}weight"])
        self.put_rest(output, tensors)
        step(self.values.read_bytes)

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
            seen = sample(layer, [(start, start + count)])
            if found := differences(self.format, wanted.flatten(), seen):
                return found
        return ""


def encoded(job: Job, rows: Tensor, amax: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Codes and scales of some rows."""
    if isinstance(job.granularity, PerTensor):
        scale = job.scale(amax)
        return torch.cat([job.codes(job.values(slab), scale) for slab in slabs(rows, job.granularity)]), scale
    finite(largest(rows, (0, 1)), name)
    return encode_slabs(job, rows, amax)
