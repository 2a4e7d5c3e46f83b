"""Safetensors files written in pieces from any number of threads, that appear whole and together or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import torch
from torch import Tensor

from .header import DTYPES, LARGEST_HEADER, METADATA, TensorInfo
from .refusal import Refused
from .stored import first_line

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be deleted anyway
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".scaled-fp8-{}.tmp"
ALIGNMENT = 8
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_safetensors(
    path: str | os.PathLike[str],
    plan: Iterable[TensorInfo],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the planned tensors, which may come in any order, as ``(name, tensor)``; each is let go once written."""
    with writing({Path(path): lay_out(plan, metadata or {})}) as output:
        for name, tensor in tensors:
            output.put(name, tensor)


@contextmanager
def writing(layouts: Mapping[Path, Layout]) -> Iterator[Output]:
    """An Output for these files, which take their places when the block ends well and all is written."""
    paths = list(layouts)
    check_targets(layouts)
    for folder in {path.parent for path in paths}:
        remove_stale(folder)
    try:
        with replacing(paths) as files:
            output = Output([Slot(file, layout) for file, layout in zip(files, layouts.values(), strict=True)])
            yield output
            output.check_complete()
    except OSError as problem:
        raise Refused(failure(paths[0], problem)) from None


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
    header: dict[str, object] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    starts, end = [], 0
    for info in infos:
        header[info.name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": (end, end + info.nbytes)}
        starts.append(end)
        end += info.nbytes
    text = encoded(header)
    places = {info.name: (info, len(text) + start) for info, start in zip(infos, starts, strict=True)}
    return Layout(text, places, len(text) + end)


def encoded(header: dict[str, object]) -> bytes:
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > LARGEST_HEADER:
        raise Refused(f"The header would be {len(text)} bytes long, more than the {LARGEST_HEADER} of safetensors.")
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


##### Whole or not at all


@contextmanager
def replacing(paths: list[Path]) -> Iterator[list[BinaryIO]]:
    """Files to write into that take the paths' places when the block ends well, and are gone when it does not."""
    temporaries = [path.parent / temporary(path) for path in paths]
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(create(named)) for named in temporaries]
            yield files
            for file, named in zip(files, temporaries, strict=True):
                os.fsync(file.fileno())
                if not named.exists():
                    name_it(file, named)
            if not fcntl:
                stack.close()
            # locked until it has its place: another run takes it for no stale one
            publish(dict(zip(temporaries, paths, strict=True)))
    except BaseException:
        for named in temporaries:
            with suppress(OSError):
                named.unlink(missing_ok=True)
        raise


def temporary(path: Path) -> str:
    return TEMPORARY.format(f"{os.getpid()}-{sha256(path.name.encode()).hexdigest()[:12]}")


def publish(targets: Mapping[Path, Path]) -> None:
    """Move each temporary to its place. Of several files the last names the others: it goes first and comes last."""
    *_, last = targets.values()
    placed: list[Path] = []
    try:
        if len(targets) > 1:
            last.unlink(missing_ok=True)
            flush_folder(last.parent)
        for named, path in targets.items():
            os.replace(named, path)
            placed.append(path)
    except BaseException:
        for path in placed:
            path.unlink(missing_ok=True)
        raise
    for folder in {path.parent for path in targets.values()}:
        flush_folder(folder)


def create(named: Path) -> BinaryIO:
    """A nameless file in named's folder, which even a kill takes along; where there is none, a locked named one."""
    with suppress(OSError, AttributeError):
        if Path("/proc/self/fd").exists():
            descriptor = os.open(named.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
            return locked(open(descriptor, "w+b", buffering=0))  # type: ignore[arg-type]
    return locked(open(named, "x+b", buffering=0))  # type: ignore[arg-type]


def locked(file: BinaryIO) -> BinaryIO:
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def name_it(file: BinaryIO, named: Path) -> None:
    """Give a nameless file its name."""
    folder = os.open(named.parent, os.O_RDONLY)
    try:
        # only with a folder of its own does os.link follow the link in /proc, as it says it does
        os.link(f"/proc/self/fd/{file.fileno()}", named, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def remove_stale(folder: Path) -> None:
    """Remove temporaries of processes that died: nobody holds their lock."""
    for path in folder.glob(TEMPORARY.format("*")):
        with suppress(OSError):
            if not is_locked(path):
                path.unlink()


def is_locked(path: Path) -> bool:
    if not fcntl:
        return False
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def flush_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where folders can be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


##### Refusals


def check_targets(layouts: Mapping[Path, Layout]) -> None:
    for path in layouts:
        if not path.parent.is_dir():
            raise Refused(f"{path}: the folder {path.parent} does not exist; make it first.")
        if path.exists() and not path.is_file():
            raise Refused(f"{path}: is not a regular file and cannot be replaced; give the name of a file.")
    path, size = next(iter(layouts)), sum(layout.size for layout in layouts.values())
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise Refused(f"{path}: {size} bytes are needed and {free} are free there; nothing was written.")


def failure(path: Path, problem: OSError) -> str:
    if problem.errno in FULL:
        return f"{path}: the disk is full; nothing was left there, make room and start again."
    return f"{path}: cannot be written: {first_line(problem)}; nothing was left there."


__all__ = ["Layout", "Output", "lay_out", "write_safetensors", "writing"]
