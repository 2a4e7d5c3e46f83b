"""Safetensors files on disk: opened once, watched for changes, data one tensor or piece at a time."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import Refused, first_line
from .header import TensorInfo, read_header
from .stored import Contents

BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
# size, times of the last change of content and of anything, and number of a file: one that differs is another file
Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class DataFile:
    """A file as it was when its header was read."""

    path: Path
    stamp: Stamp

    def read(self, info: TensorInfo, offset: int, nbytes: int) -> Tensor:
        """Bytes [offset, offset + nbytes) as uint8 ``[nbytes]``."""
        try:
            with open_regular(self.path) as file:
                if stamp_of(file) != self.stamp:
                    raise Refused("the file was changed while it was being read; start again.", file=self.path)
                return read_bytes(file, offset, nbytes)
        except (OSError, RuntimeError, MemoryError, EOFError) as problem:
            what = f"{info.name!r} ({nbytes} bytes) cannot be read: {first_line(problem)}"
            raise Refused(f"{what}; try again, or fetch it again.", file=self.path) from None


@dataclass(frozen=True)
class InFile:
    """A tensor in a file. offset: position of its data, or of its storage's, in the file."""

    info: TensorInfo
    file: DataFile
    offset: int

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def origin(self) -> str:
        return self.path.name


class OnDisk(InFile):
    """A tensor in a safetensors file."""

    def read(self, start: int, stop: int) -> Tensor:
        dtype = self.info.torch_dtype
        if dtype is None:
            raise Refused(
                f"{self.info.name!r} is {self.info.dtype}, which torch cannot hold; load it elsewhere.", file=self.path
            )
        size = dtype.itemsize
        return self.file.read(self.info, self.offset + start * size, (stop - start) * size).view(dtype)


def read_safetensors(path: Path) -> Contents:
    """The tensors of one safetensors file; only its header is read."""
    with open_regular(path) as file:
        stamp = stamp_of(file)
        header = read_header(file, stamp[0], path)
    data = DataFile(path, stamp)
    tensors = {name: OnDisk(info, data, offset) for name, (info, offset) in header.tensors.items()}
    return Contents(tensors, header.metadata)


def read_bytes(file: BinaryIO, offset: int, nbytes: int) -> Tensor:
    """Bytes of an open file as a tensor of uint8."""
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
            raise Refused(f"{kind}; name a .safetensors file, an index.json or a diffusers folder.", file=path)
        # what became a pipe meanwhile does not hold up
        file = open(os.open(path, os.O_RDONLY | BINARY), "rb", buffering=0)  # noqa: SIM115
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise Refused(
                "not a regular file; name a .safetensors file, an index.json or a diffusers folder.", file=path
            )
        return file  # type: ignore[return-value]
    except (OSError, ValueError) as problem:
        raise Refused(f"cannot be opened: {first_line(problem)}; give another path.", file=path) from None


def stamp_of(file: BinaryIO) -> Stamp:
    return stamped(os.fstat(file.fileno()))


def stamped(status: os.stat_result) -> Stamp:
    # a file put in its place may have its size and time, but not its number; one rewritten in place has a new ctime
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns if os.name == "posix" else 0, status.st_ino
