"""A checkpoint as named tensors, whatever it is stored in; infos from headers, data one tensor at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from .header import CODES, TensorInfo, read_header
from .refusal import Refused


class Stored(Protocol):
    """A tensor that can be read."""

    @property
    def info(self) -> TensorInfo: ...
    @property
    def origin(self) -> str: ...
    def read(self, start: int, stop: int) -> Tensor: ...


class Source(Mapping[str, TensorInfo]):
    """Tensor name -> TensorInfo of one checkpoint; the data is read when asked for.

    path: what was opened, None for tensors in memory; name: for messages; metadata: of the headers, merged;
    sidecars: file name -> parsed JSON of what lies beside.
    """

    def __init__(
        self,
        stored: Mapping[str, Stored],
        metadata: Mapping[str, str] | None = None,
        sidecars: Mapping[str, dict[str, Any]] | None = None,
        path: Path | None = None,
        name: str = "model",
    ) -> None:
        self.stored, self.path, self.name = dict(stored), path, name
        self.metadata, self.sidecars = dict(metadata or {}), dict(sidecars or {})

    def __getitem__(self, name: str) -> TensorInfo:
        return self.stored[name].info

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def total_bytes(self) -> int:
        """Of all tensors' data."""
        return sum(stored.info.nbytes for stored in self.stored.values())

    @property
    def files(self) -> set[Path]:
        """Every file that data is read from."""
        on_disk = (stored.file.path for stored in self.stored.values() if isinstance(stored, OnDisk))
        return {*on_disk, *([self.path] if self.path else [])}

    def origin(self, name: str) -> str:
        """The name of the file that a tensor came from."""
        return self.stored[name].origin

    def tensor(self, name: str) -> Tensor:
        """One tensor in memory of its own (a loaded one: as it is). Refused where torch has no such dtype."""
        info = self.stored[name].info
        return self.stored[name].read(0, info.numel).reshape(info.shape)

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor; nothing else is read."""
        if not 0 <= start <= stop <= self.stored[name].info.numel:
            raise IndexError(f"{name}: elements {start} to {stop} of {self.stored[name].info.numel}")
        return self.stored[name].read(start, stop)


##### Tensors in memory


class StateDictSource(Source):
    """Tensors that are loaded already, or mapped lazily: looking at infos touches no data."""

    def __init__(
        self, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, name: str = "model"
    ) -> None:
        stored = {key: loaded(key, tensor, name) for key, tensor in state_dict.items()}
        super().__init__(stored, metadata, name=name)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A tensor in memory. own: whether it may be handed out as it is; if not, copies are."""

    info: TensorInfo
    value: Tensor
    origin: str
    own: bool = True

    def read(self, start: int, stop: int) -> Tensor:
        piece = self.value.reshape(-1)[start:stop]
        return piece if self.own else piece.clone()


def loaded(name: str, value: object, origin: str, own: bool = True) -> Loaded:
    """A tensor of a state dict, checked."""
    if not isinstance(value, Tensor):
        raise Refused(f"{origin}: {name!r} is a {type(value).__name__}, not a tensor; save the state dict alone.")
    if value.dtype not in CODES or value.layout is not torch.strided:
        raise Refused(f"{origin}: {name!r} is a {value.layout} tensor of {value.dtype}, which cannot be read here.")
    shape = tuple(value.shape)
    nbytes = prod(shape) * value.dtype.itemsize
    return Loaded(TensorInfo(name, CODES[value.dtype], shape, nbytes), value.detach(), origin, own)


##### Tensors in a safetensors file


@dataclass(frozen=True)
class DataFile:
    """A file as it was when its header was read. stamp: size and time of its last change."""

    path: Path
    stamp: tuple[int, int]

    def read(self, info: TensorInfo, offset: int, nbytes: int) -> Tensor:
        """Bytes [offset, offset + nbytes) as uint8 ``[nbytes]``."""
        try:
            with open_regular(self.path) as file:
                if stamp_of(file) != self.stamp:
                    raise Refused(f"{self.path}: the file was changed while it was being read; start again.")
                return read_bytes(file, offset, nbytes)
        except (OSError, RuntimeError, MemoryError, EOFError) as problem:
            where = f"{self.path}: {info.name!r} ({nbytes} bytes)"
            raise Refused(f"{where} cannot be read: {first_line(problem)}.") from None


@dataclass(frozen=True)
class OnDisk:
    """A tensor in a safetensors file. offset: position of its data in the file."""

    info: TensorInfo
    file: DataFile
    offset: int

    @property
    def origin(self) -> str:
        return self.file.path.name

    def read(self, start: int, stop: int) -> Tensor:
        dtype = self.info.torch_dtype
        if dtype is None:
            raise Refused(f"{self.file.path}: {self.info.name!r} is {self.info.dtype}, which torch cannot hold.")
        size = dtype.itemsize
        return self.file.read(self.info, self.offset + start * size, (stop - start) * size).view(dtype)


@dataclass(frozen=True)
class Contents:
    """What one file holds."""

    tensors: Mapping[str, Stored]
    metadata: dict[str, str] = field(default_factory=dict)


def read_safetensors(path: Path) -> Contents:
    """The tensors of one safetensors file; only its header is read."""
    with open_regular(path) as file:
        stamp = stamp_of(file)
        header = read_header(file, stamp[0], str(path))
    data = DataFile(path, stamp)
    tensors = {name: OnDisk(info, data, offset) for name, (info, offset) in header.tensors.items()}
    return Contents(tensors, header.metadata)


def read_bytes(file: BinaryIO, offset: int, nbytes: int) -> Tensor:
    data = torch.empty(nbytes, dtype=torch.uint8)
    view = memoryview(data.numpy().data)
    file.seek(offset)
    while view:
        # at most 2 GB come at once
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise EOFError("the file ends before it")
        view = view[count:]
    return data


def open_regular(path: Path) -> BinaryIO:
    """The file, unbuffered; refused unless it is a regular file (a pipe would wait for ever)."""
    try:
        if not path.is_file():
            kind = "not a regular file" if path.exists() else "no such file"
            raise Refused(f"{path}: {kind}; name a .safetensors file, an index.json or a diffusers folder.")
        return open(path, "rb", buffering=0)  # type: ignore[return-value]
    except (OSError, ValueError) as problem:
        raise Refused(f"{path}: cannot be opened: {first_line(problem)}.") from None


def stamp_of(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def first_line(problem: BaseException) -> str:
    text = getattr(problem, "strerror", None) or str(problem).strip() or type(problem).__name__
    return text.splitlines()[0][:160].rstrip(".")
