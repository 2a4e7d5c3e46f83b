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
from ..weights.native import description, native_tensors
from ..weights.weight import QuantizedWeight
from .values import Values, format_of, pieces

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
