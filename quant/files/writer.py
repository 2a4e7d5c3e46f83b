"""Safetensors files written in pieces from any number of threads, that appear whole and together or not at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import Refused
from .atomic import Places, check_targets, failure, remove_stale, replacing
from .header import DTYPES, LARGEST_HEADER, METADATA, TensorInfo

ALIGNMENT = 8


def write_safetensors(
    path: str | os.PathLike[str],
    plan: Iterable[TensorInfo],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str] | None = None,
    check: Callable[[Output], object] = lambda output: None,
) -> None:
    """Write the planned tensors, which may come in any order, as ``(name, tensor)``; each is let go once written.

    check: looks at what was written before it takes its place; nothing is left there if it raises.
    """
    with writing({Path(path): lay_out(plan, metadata or {})}) as output:
        for name, tensor in tensors:
            output.put(name, tensor)
        output.check_complete()
        check(output)


@contextmanager
def writing(layouts: Mapping[Path, Layout], places: Places | None = None) -> Iterator[Output]:
    """An Output for these files, which take their places when the block ends well and all is written.

    places: where they go in the end, if that is not for their paths alone to say.
    """
    paths = list(layouts)
    try:
        check_targets({path: layout.size for path, layout in layouts.items()})
        for folder in {path.parent for path in paths}:
            remove_stale(folder)
        with replacing(places or Places(paths)) as files:
            output = Output([Slot(file, layout) for file, layout in zip(files, layouts.values(), strict=True)])
            yield output
            output.check_complete()
    except OSError as problem:
        raise failure(paths[0], problem) from None


##### What goes where


@dataclass(frozen=True)
class Layout:
    """header: the bytes before the data; places: name -> info and position in the file; size: of the whole file."""

    header: bytes
    places: dict[str, tuple[TensorInfo, int]]
    size: int


def lay_out(plan: Iterable[TensorInfo], metadata: Mapping[str, str]) -> Layout:
    """Wide dtypes first, then by name, as the safetensors library does: each tensor is aligned to its elements."""
    infos = sorted(plan, key=lambda info: (-list(DTYPES).index(info.dtype), info.name))
    check_once(info.name for info in infos)
    header: dict[str, object] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    starts, end = [], 0
    for info in infos:
        header[info.name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": (end, end + info.nbytes)}
        starts.append(end)
        end += info.nbytes
    text = encoded(header)
    places = {info.name: (info, len(text) + start) for info, start in zip(infos, starts, strict=True)}
    return Layout(text, places, len(text) + end)


def check_once(names: Iterable[str]) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise Refused(f"{twice}: would be written twice, so that one of the two is lost; rename it in the source.")


def encoded(header: dict[str, object]) -> bytes:
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > LARGEST_HEADER:
        raise Refused(f"A header of {len(text)} bytes is longer than safetensors has, {LARGEST_HEADER}; write shards.")
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class Slot:
    """A file being written. lock: for systems that cannot write at a position."""

    file: BinaryIO
    layout: Layout
    lock: Lock = field(default_factory=Lock)

    @property
    def path(self) -> Path:
        """Where to read what is written so far."""
        name = self.file.name
        return Path(f"/proc/self/fd/{name}") if isinstance(name, int) else Path(name)

    def write(self, offset: int, data: memoryview) -> None:
        while data:
            # at most 2 GB go at once
            count = os.pwrite(self.file.fileno(), data, offset) if hasattr(os, "pwrite") else self.seek(offset, data)
            offset, data = offset + count, data[count:]

    def seek(self, offset: int, data: memoryview) -> int:
        with self.lock:
            self.file.seek(offset)
            return self.file.write(data)


class Output:
    """Files of full size whose tensors are put in any order, whole or in pieces, from any thread."""

    def __init__(self, slots: list[Slot]) -> None:
        self.slots = slots
        self.slot_of = {name: slot for slot in slots for name in slot.layout.places}
        self.missing = {name: info.nbytes for slot in slots for name, (info, _) in slot.layout.places.items()}
        self.lock = Lock()
        for slot in slots:
            slot.write(0, memoryview(slot.layout.header))
            slot.file.truncate(slot.layout.size)

    def put(self, name: str, tensor: Tensor, start: int | None = None) -> None:
        """Write a tensor; with start, the piece of it that begins with that flat element."""
        info, offset = self.slot_of[name].layout.places[name]
        shape = tuple(tensor.shape)
        if tensor.dtype != info.torch_dtype or (shape != info.shape if start is None else tensor.dim() != 1):
            raise ValueError(f"{name}: planned {info.dtype} {info.shape}, got {tensor.dtype} {shape}")
        data = bytes_of(tensor)
        self.count(name, len(data))
        self.slot_of[name].write(offset + (start or 0) * tensor.element_size(), data)

    def count(self, name: str, nbytes: int) -> None:
        with self.lock:
            self.missing[name] -= nbytes
        if self.missing[name] < 0:
            raise ValueError(f"{name}: more than was planned was given")

    def check_complete(self) -> None:
        missing = [name for name, nbytes in self.missing.items() if nbytes]
        if missing:
            raise ValueError(f"{len(missing)} planned tensors were not given, the first is {missing[0]}")


def bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(b"")
