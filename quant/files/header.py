"""The header of a safetensors file, read strictly: whatever passes here, the safetensors library reads too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import torch

from ..errors import Refused

LARGEST_HEADER = 100_000_000
METADATA = "__metadata__"
MOST_DIMENSIONS = 64
# safetensors code -> bits and the torch dtype of the same bits, None where torch cannot hold it
DTYPES: dict[str, tuple[int, torch.dtype | None]] = {
    "BOOL": (8, torch.bool),
    "F4": (4, None),
    "F6_E2M3": (6, None),
    "F6_E3M2": (6, None),
    "U8": (8, torch.uint8),
    "I8": (8, torch.int8),
    "F8_E5M2": (8, torch.float8_e5m2),
    "F8_E4M3": (8, torch.float8_e4m3fn),
    "F8_E8M0": (8, torch.float8_e8m0fnu),
    "F8_E4M3FNUZ": (8, torch.float8_e4m3fnuz),
    "F8_E5M2FNUZ": (8, torch.float8_e5m2fnuz),
    "I16": (16, torch.int16),
    "U16": (16, torch.uint16),
    "F16": (16, torch.float16),
    "BF16": (16, torch.bfloat16),
    "I32": (32, torch.int32),
    "U32": (32, torch.uint32),
    "F32": (32, torch.float32),
    "C64": (64, torch.complex64),
    "F64": (64, torch.float64),
    "I64": (64, torch.int64),
    "U64": (64, torch.uint64),
}
CODES: dict[torch.dtype, str] = {dtype: code for code, (_, dtype) in DTYPES.items() if dtype is not None}


@dataclass(frozen=True)
class TensorInfo:
    """What a header says about a tensor. dtype: safetensors code; shape: as stored; nbytes: of its data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """None for formats smaller than a byte, which torch cannot hold."""
        return DTYPES[self.dtype][1]


@dataclass(frozen=True)
class Header:
    """tensors: name -> its info and the position of its data in the file, in order of position."""

    tensors: dict[str, tuple[TensorInfo, int]]
    metadata: dict[str, str]


def info_of(name: str, dtype: torch.dtype, shape: Iterable[int]) -> TensorInfo:
    """The info of a tensor that is not in a file yet."""
    if dtype not in CODES:
        raise Refused(f"{name}: safetensors has no dtype for {dtype}; cast it first.")
    shape = tuple(shape)
    return TensorInfo(name, CODES[dtype], shape, prod(shape) * dtype.itemsize)


def read_header(file: BinaryIO, size: int, path: Path) -> Header:
    """Header of the safetensors file of size bytes that is open in file."""
    try:
        return parse(file, size)
    except Malformed as problem:
        advice = "it is damaged or not a safetensors file; fetch it again"
        raise Refused(f"{problem}; {advice}.", file=path) from None


class Malformed(ValueError):
    """A clause about a header."""


class NotJson(ValueError):
    """What a text has or is that JSON has or is not: a clause without its subject."""


def parse(file: BinaryIO, size: int) -> Header:
    """A file's header, read strictly; Malformed, which names no file, for any other."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        # not how long: of a file that is none, that is what its first bytes are
        raise Malformed(f"the header should be longer than the whole file, which has {size} bytes")
    if length > LARGEST_HEADER:
        raise Malformed(f"the header should be longer than {LARGEST_HEADER} bytes")
    try:
        fields = as_object(file.read(length))
    except NotJson as problem:
        raise Malformed(f"the header {problem}") from None
    metadata = as_metadata(fields.pop(METADATA, None))
    entries = sorted((*spans(name, field), name, field) for name, field in fields.items())
    return Header(laid_out(entries, 8 + length, size), metadata)


def as_object(text: bytes) -> dict[str, Any]:
    """A file's JSON text as a dictionary, each key once at every level; NotJson, which names no file, for others."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=once, parse_constant=no_constant)
        written(value)
    except NotJson:
        raise
    except UnicodeError:
        raise NotJson("is not JSON (no UTF-8)") from None
    except (ValueError, RecursionError, TypeError) as problem:
        raise NotJson(f"is not JSON ({str(problem)[:80]})") from None
    if not isinstance(value, dict):
        raise NotJson("is not a JSON object")
    return value


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise NotJson(f"has the key {twice[:80]!r} twice")
    return fields


def no_constant(text: str) -> None:
    raise NotJson(f"holds {text}, which is not JSON")


def as_metadata(field: object) -> dict[str, str]:
    if field is None:
        return {}
    if not isinstance(field, dict) or not all(isinstance(value, str) for value in field.values()):
        raise Malformed(f"{METADATA} is not a JSON object of strings")
    return field


def written(value: object) -> None:
    """A lone surrogate is no text: it could be neither printed nor written."""
    if isinstance(value, dict):
        metadata = value.get(METADATA)
        strings = [*value, *(metadata.values() if isinstance(metadata, dict) else ())]
        "".join(string for string in strings if isinstance(string, str)).encode()


def spans(name: str, field: object) -> tuple[int, int]:
    offsets = field.get("data_offsets") if isinstance(field, dict) else None
    if not are_sizes(offsets) or len(offsets) != 2:
        raise Malformed(f"{name[:80]!r} has no pair of data_offsets")
    return offsets[0], offsets[1]


def are_sizes(values: object) -> TypeGuard[list[int]]:
    """Whether values is a list of integers that torch can take as sizes."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def laid_out(entries: list[tuple[int, int, str, Any]], data: int, size: int) -> dict[str, tuple[TensorInfo, int]]:
    """Entries in order of position -> infos; they must fill the file from data to its end, without hole or overlap."""
    tensors, end = {}, 0
    for start, stop, name, field in entries:
        if start != end or stop < start:
            raise Malformed(f"{name[:80]!r} lies at bytes {start} to {stop} of the data, where {end} comes next")
        tensors[name] = checked(name, field, stop - start), data + start
        end = stop
    if data + end != size:
        raise Malformed(f"the tensors end at byte {data + end}, but the file has {size}")
    return tensors


def checked(name: str, field: Mapping[str, Any], nbytes: int) -> TensorInfo:
    """One entry of a header; Malformed where dtype, shape and bytes do not agree."""
    dtype, shape = field.get("dtype"), field.get("shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Malformed(f"{name[:80]!r} has the unknown dtype {str(dtype)[:20]!r}")
    if not are_sizes(shape) or len(shape) > MOST_DIMENSIONS or prod(max(1, n) for n in shape) >= 2**63:
        raise Malformed(f"{name[:80]!r} has the impossible shape {str(shape)[:80]}")
    if prod(shape) * DTYPES[dtype][0] != nbytes * 8:
        raise Malformed(f"{name[:80]!r} has {nbytes} bytes, which is not {dtype} of shape {shape}")
    return TensorInfo(name, dtype, tuple(shape), nbytes)
