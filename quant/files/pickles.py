"""Checkpoints that torch pickled, read without running anything that is in them."""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import Refused, first_line
from .memory import loaded
from .reader import DataFile, InFile, open_regular, stamp_of
from .stored import Contents

# what torch.save writes the names of, for tensors in plain containers
NEEDED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v[23]|parameter)|torch Size"
    r"|torch (\w+Storage|u?int\d+|float\w+|bfloat16|complex\d+|bool)|torch\.storage (Untyped|Typed)Storage"
)
# top keys under which trainers put the state dict
WRAPPERS = ("module", "state_dict", "model")


@dataclass(frozen=True)
class Records:
    """Where a torch file has what. sizes: position of a record's data -> its bytes."""

    file: DataFile
    sizes: Mapping[int, int]


@dataclass(frozen=True)
class InPickle(InFile):
    """A tensor of a torch file. strides: of elements, from first on."""

    first: int
    strides: tuple[int, ...]

    def read(self, start: int, stop: int) -> Tensor:
        """Elements [start, stop) by reading: a map of a file that shrinks would end the process."""
        if self.strides == contiguous(self.info.shape):
            return self.elements(self.first + start, stop - start)
        whole = self.elements(self.first, spanned(self.info.shape, self.strides))
        return whole.as_strided(self.info.shape, self.strides).reshape(-1)[start:stop].clone()

    def elements(self, start: int, count: int) -> Tensor:
        dtype = self.info.torch_dtype
        assert dtype is not None  # what torch saved it can hold
        size = dtype.itemsize
        return self.file.read(self.info, self.offset + start * size, count * size).view(dtype)


def spanned(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements of a storage from the first to the last that a tensor has."""
    return sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) + 1 if all(shape) else 0


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


def read_pickle(path: Path) -> Contents:
    """The tensors of a torch file; nothing but tensors and plain containers is unpickled."""
    state, records = load_pickle(path)
    tops = [key for key in WRAPPERS if isinstance(state.get(key), dict)]
    if len(tops) == 1:
        state = state[tops[0]]
    return Contents({key: located(key, value, records) for key, value in state.items()})


def load_pickle(path: Path) -> tuple[dict[str, Any], Records]:
    """What is pickled, its tensors without their data, and where that is."""
    with open_regular(path) as file:
        data = DataFile(path, stamp_of(file))
        records = Records(data, checked_records(file, path))
        state = unpickled(file, path)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise Refused(f"holds a {type(state).__name__}, not tensors by name; save it as safetensors.", file=path)
    return state, records


def unpickled(file: BinaryIO, path: Path) -> object:
    """What torch pickled, with tensors that have no data yet; nothing in it is run."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    file.seek(0)
    try:
        with FakeTensorMode():
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise Refused(
            "more than tensors is pickled in it, which is not read; save it as safetensors.", file=path
        ) from None
    except Exception as problem:  # whatever damage makes torch's reader raise; its text may name the path again
        what = first_line(problem).replace(str(path), path.name)
        raise Refused(f"cannot be read: {what}; save it as safetensors.", file=path) from None


def checked_records(file: BinaryIO, path: Path) -> dict[int, int]:
    """Position of each record's data -> its bytes.

    Refused unless this is what torch.save writes of tensors: nothing in it asks for more memory than its bytes.
    """
    try:
        size = os.fstat(file.fileno()).st_size
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = Counter(entry.filename for entry in entries)
            packed = any(entry.compress_type or entry.file_size > size for entry in entries)
            if packed or len(names) < len(entries) or sum(entry.file_size for entry in entries) > size:
                raise Refused("is not packed as torch.save packs; save it as safetensors.", file=path)
            for entry in entries:
                if entry.filename.endswith(".pkl"):
                    check_pickle(archive.read(entry), path)
            return {start_of(entry, file): entry.file_size for entry in entries}
    except Refused:
        raise
    except Exception:  # whatever damage makes its readers raise
        raise Refused("is damaged, or not what torch.save writes today; save it as safetensors.", file=path) from None


def start_of(entry: zipfile.ZipInfo, file: BinaryIO) -> int:
    """Where the data of an entry begins: behind its header, a name and padding."""
    file.seek(entry.header_offset + 26)
    return entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


def check_pickle(code: bytes, path: Path) -> None:
    """Refused where a pickle calls anything but what rebuilds tensors; some that is harmless reserves gigabytes."""
    for operation, argument, _ in pickletools.genops(code):
        if operation.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4") or (
            operation.name == "GLOBAL" and not NEEDED.fullmatch(str(argument))
        ):
            raise Refused("more than tensors is pickled in it, which is not read; save it as safetensors.", file=path)


def located(name: str, value: object, records: Records) -> InPickle:
    """Where a tensor's data is; refused where its storage has none of it."""
    found, path = loaded(name, value, records.file.path.name), records.file.path
    strides, first = found.value.stride(), int(found.value.storage_offset())
    offset = getattr(found.value.untyped_storage(), "_checkpoint_offset", None)
    # a view can claim any size; what is behind it is what the file holds
    there = records.sizes.get(offset, 0) if isinstance(offset, int) else 0
    claimed = max(found.info.nbytes, (first + spanned(found.info.shape, strides)) * found.value.element_size())
    if offset is None or claimed > there:
        raise Refused(f"{name!r} claims {claimed} bytes, more than are stored; fetch it again.", file=path)
    return InPickle(found.info, records.file, offset, first, strides)
