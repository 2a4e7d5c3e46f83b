"""Checkpoints that torch pickled, read without running anything that is in them."""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..errors import Refused, first_line
from .memory import Loaded, loaded
from .reader import DataFile, open_regular, stamp_of
from .stored import Contents

# what torch.save writes the names of, for tensors in plain containers
NEEDED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v[23]|parameter)|torch Size"
    r"|torch (\w+Storage|u?int\d+|float\w+|bfloat16|complex\d+|bool)|torch\.storage (Untyped|Typed)Storage"
)
# top keys under which trainers put the state dict
WRAPPERS = ("module", "state_dict", "model")


def read_pickle(path: Path) -> Contents:
    """The tensors of a torch file, mapped; nothing but tensors and plain containers is unpickled."""
    state = load_pickle(path)
    tops = [key for key in WRAPPERS if isinstance(state.get(key), dict)]
    if len(tops) == 1:
        state = state[tops[0]]
    return Contents({key: mapped(key, value, path) for key, value in state.items()})


def load_pickle(path: Path) -> dict[str, Any]:
    with open_regular(path) as file:
        check_archive(file, path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise Refused(
            "more than tensors is pickled in it, which is not read; save it as safetensors.", file=path
        ) from None
    except Exception as problem:  # whatever damage makes torch's reader raise; its text may name the path again
        what = first_line(problem).replace(str(path), path.name)
        raise Refused(f"cannot be read: {what}; save it as safetensors.", file=path) from None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise Refused(f"holds a {type(state).__name__}, not tensors by name; save it as safetensors.", file=path)
    return state


def watched(path: Path) -> DataFile:
    with open_regular(path) as file:
        return DataFile(path, stamp_of(file))


def check_archive(file: BinaryIO, path: Path) -> None:
    """Refused unless this is what torch.save writes of tensors: nothing in it asks for more memory than its bytes."""
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
    except Refused:
        raise
    except Exception:  # whatever damage makes its readers raise
        raise Refused("is damaged, or not what torch.save writes today; save it as safetensors.", file=path) from None


def check_pickle(code: bytes, path: Path) -> None:
    """Refused where a pickle calls anything but what rebuilds tensors; some that is harmless reserves gigabytes."""
    for operation, argument, _ in pickletools.genops(code):
        if operation.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4") or (
            operation.name == "GLOBAL" and not NEEDED.fullmatch(str(argument))
        ):
            raise Refused("more than tensors is pickled in it, which is not read; save it as safetensors.", file=path)


def mapped(name: str, value: object, path: Path) -> Loaded:
    found = replace(loaded(name, value, path.name, own=False), watched=watched(path))
    # a view can claim any size; what is behind it is what the file holds
    if found.info.nbytes > found.value.untyped_storage().nbytes():
        raise Refused(f"{name!r} claims {found.info.nbytes} bytes, more than are stored; fetch it again.", file=path)
    return found
