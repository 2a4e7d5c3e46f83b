"""A safetensors file written one tensor at a time, that appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
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
    path = Path(path)
    layout = lay_out(plan, metadata or {})
    check_target(path, layout.size)
    remove_stale(path.parent)
    try:
        with replacing(path) as file:
            fill(file, layout, tensors)
    except OSError as problem:
        raise Refused(failure(path, problem)) from None


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


def fill(file: BinaryIO, layout: Layout, tensors: Iterable[tuple[str, Tensor]]) -> None:
    write_bytes(file, 0, memoryview(layout.header))
    missing = dict(layout.places)
    for name, tensor in tensors:
        info, offset = missing.pop(name)
        if tensor.dtype != info.torch_dtype or tuple(tensor.shape) != info.shape:
            raise ValueError(f"{name}: planned {info.dtype} {info.shape}, got {tensor.dtype} {tuple(tensor.shape)}")
        write_bytes(file, offset, bytes_of(tensor))
    if missing:
        raise ValueError(f"{len(missing)} planned tensors were not given, the first is {next(iter(missing))}")
    file.truncate(layout.size)


def bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(b"")


def write_bytes(file: BinaryIO, offset: int, data: memoryview) -> None:
    file.seek(offset)
    while data:
        # at most 2 GB go at once
        data = data[file.write(data) :]


##### Whole or not at all


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into that takes path's place when the block ends well, and is gone when it does not."""
    named = path.parent / TEMPORARY.format(f"{os.getpid()}-{sha256(path.name.encode()).hexdigest()[:12]}")
    try:
        with create(named) as file:
            yield file
            os.fsync(file.fileno())
            if not named.exists():
                name_it(file, named)
        os.replace(named, path)
        flush_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            named.unlink(missing_ok=True)
        raise


def create(named: Path) -> BinaryIO:
    """A nameless file in named's folder, which even a kill takes along; where there is none, a locked named one."""
    with suppress(OSError, AttributeError):
        if Path("/proc/self/fd").exists():
            descriptor = os.open(named.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
            return open(descriptor, "wb", buffering=0)  # type: ignore[return-value]
    file = open(named, "xb", buffering=0)  # noqa: SIM115
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX)
    return file  # type: ignore[return-value]


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


def check_target(path: Path, size: int) -> None:
    if not path.parent.is_dir():
        raise Refused(f"{path}: the folder {path.parent} does not exist; make it first.")
    if path.exists() and not path.is_file():
        raise Refused(f"{path}: is not a regular file and cannot be replaced; give the name of a file.")
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise Refused(f"{path}: {size} bytes are needed and {free} are free there; nothing was written.")


def failure(path: Path, problem: OSError) -> str:
    if problem.errno in FULL:
        return f"{path}: the disk is full; nothing was left there, make room and start again."
    return f"{path}: cannot be written: {first_line(problem)}; nothing was left there."


__all__ = ["write_safetensors"]
