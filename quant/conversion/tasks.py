"""The kinds of work that a conversion is made of: each says what it writes, writes it in pieces, and checks it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, prod
from typing import Protocol

import torch
from torch import Tensor

from ..checkpoint.read import Checkpoint
from ..errors import Refused
from ..files.header import TensorInfo, info_of
from ..files.writer import Output
from ..weights.job import SLAB
from ..weights.native import description, native_tensors
from ..weights.weight import QuantizedWeight

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
        return self.layer is not None or self.name in self.ckpt.tensors.biases

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
    return ckpt.spec(layer).stored_as


def pieces(total: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + PIECE, total)) for start in range(0, total, PIECE))


##### Values in high precision


@dataclass(frozen=True)
class Cast:
    """Values written in dtype, None for their own. vanished: how many, piece by piece, were too small and became 0."""

    values: Values
    dtype: torch.dtype | None
    reason: str
    vanished: list[int] = field(default_factory=list, compare=False, repr=False)

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
            values = read(start, stop)
            written = self.converted(values)
            if written.dtype != values.dtype:
                self.vanished.append(nonzero(values) - nonzero(written))
            output.put(self.name, written, start)
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


def nonzero(values: Tensor) -> int:
    return int((values.float() if values.dtype.itemsize == 1 else values).count_nonzero())


def sample_runs(total: int) -> Iterator[tuple[int, int]]:
    return ((at, min(at + 4096, total)) for at in sorted({0, total // 2, max(0, total - 4096)}) if at < total)


def cast(weight: Tensor, dtype: torch.dtype, name: str, damaged: bool = True) -> Tensor:
    """What Cast writes: values in dtype; refused where a finite one does not fit, or one is NaN by damage."""
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


class Writing(ABC):
    """A task that writes a quantized layer, in ComfyUI's form where it has one.

    name: its weight's key; shell: the weight without its codes; shape: its own, which a convolution's codes have too.
    """

    @property
    @abstractmethod
    def name(self) -> str: ...
    @property
    @abstractmethod
    def shell(self) -> QuantizedWeight: ...
    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]: ...

    @property
    def prefix(self) -> str:
        return self.name.removesuffix("weight")

    @cached_property
    def infos(self) -> list[TensorInfo]:
        tensors = native_tensors(self.shell, self.prefix)
        whole = len(self.shape) > 2 and self.shell.format.per_byte == 1
        shapes = {
            name: self.shape if whole and name == f"{self.prefix}weight" else t.shape for name, t in tensors.items()
        }
        return [info_of(name, tensor.dtype, shapes[name]) for name, tensor in tensors.items()]

    @property
    def marker(self) -> dict[str, object]:
        return description(self.shell)


@dataclass(frozen=True)
class Pass(Writing):
    """A quantized layer written as it is."""

    ckpt: Checkpoint
    layer: str
    reason: str

    @property
    def name(self) -> str:
        return self.ckpt.weight_key(self.layer)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.ckpt.spec(self.layer).full_shape

    @property
    def after(self) -> str:
        return format_of(self.ckpt, self.layer)

    @property
    def cost(self) -> int:
        return prod(self.ckpt.spec(self.layer).shape) * 3

    @cached_property
    def shell(self) -> QuantizedWeight:
        """The weight without its codes."""
        return self.ckpt.spec(self.layer).shell()

    def write(self, output: Output, step: Step) -> None:
        tensors = native_tensors(self.ckpt[self.layer], self.prefix)
        for info in self.infos:
            output.put(info.name, tensors[info.name].reshape(info.shape))
        step(prod(self.ckpt.spec(self.layer).shape))

    def problem(self, result: Checkpoint, everything: bool) -> str:
        wanted, got = self.ckpt[self.layer], result[self.layer]
        same = torch.equal(wanted.codes.view(torch.uint8), got.codes.view(torch.uint8))
        return "" if same and torch.allclose(wanted.scale, got.scale, rtol=1e-6, atol=0) else "other codes or scales"
