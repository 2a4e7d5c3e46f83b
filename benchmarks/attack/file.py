"""A safetensors file in parts that can be changed, written and read without the package under attack."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

WIDTHS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
NUMBERS: dict[str, str] = {
    "U8": "u1", "I8": "i1", "F16": "<f2", "F32": "<f4", "F64": "<f8", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "u1",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A tensor as bytes. dtype: safetensors code."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def values(self) -> np.ndarray:
        """Float32 in its shape: each dtype by its own definition."""
        if self.dtype == "BF16":
            raw = np.frombuffer(self.data, "<u2").astype(np.uint32) << 16
            return raw.view(np.float32).reshape(self.shape)
        if self.dtype in TABLES:
            return TABLES[self.dtype][np.frombuffer(self.data, np.uint8)].reshape(self.shape)
        return np.frombuffer(self.data, NUMBERS[self.dtype]).reshape(self.shape).astype(np.float32)


@dataclass
class File:
    """What one file holds."""

    tensors: dict[str, Entry]
    metadata: dict[str, str] = field(default_factory=dict)

    def copy(self) -> File:
        return File(dict(self.tensors), dict(self.metadata))

    def header(self) -> dict[str, object]:
        """Its JSON, in the order of tensors."""
        fields: dict[str, object] = {"__metadata__": self.metadata} if self.metadata else {}
        end = 0
        for name, entry in self.tensors.items():
            place = [end, end + len(entry.data)]
            fields[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": place}
            end = place[1]
        return fields

    def raw(self) -> bytes:
        return joined(json.dumps(self.header()).encode(), b"".join(entry.data for entry in self.tensors.values()))


def turned_over(entry: Entry) -> Entry:
    """A matrix written the other way round."""
    codes = np.frombuffer(entry.data, f"V{WIDTHS[entry.dtype]}").reshape(entry.shape).T
    return Entry(entry.dtype, codes.shape, np.ascontiguousarray(codes).tobytes())


def joined(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def parsed(raw: bytes) -> File:
    """A file that is known to be sound."""
    length = int.from_bytes(raw[:8], "little")
    fields, start = json.loads(raw[8 : 8 + length]), 8 + length
    metadata = fields.pop("__metadata__", None) or {}
    return File({name: entry_of(field, raw, start) for name, field in fields.items()}, metadata)


def entry_of(field: Mapping[str, list[int]], raw: bytes, start: int) -> Entry:
    first, last = field["data_offsets"]
    return Entry(str(field["dtype"]), tuple(field["shape"]), raw[start + first : start + last])


##### Numbers


def float8_table(exponent: int, bias: int, finite: bool) -> np.ndarray:
    """The 256 values of an OCP float8 with so many bits of exponent."""
    mantissa = 7 - exponent
    codes = np.arange(128)
    e, m = codes >> mantissa, (codes & (2**mantissa - 1)) / 2**mantissa
    values = np.where(e == 0, m * 2.0 ** (1 - bias), (1 + m) * 2.0 ** (e - bias))
    if finite:
        values[127] = np.nan
    else:
        values[e == 2**exponent - 1] = np.nan
        values[(2**exponent - 1) << mantissa] = np.inf
    return np.concatenate([values, -values]).astype(np.float32)


TABLES = {
    "F8_E4M3": float8_table(4, 7, finite=True),
    "F8_E5M2": float8_table(5, 15, finite=False),
    "F8_E8M0": np.append(2.0 ** (np.arange(255) - 127.0), np.nan).astype(np.float32),
}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def nearest(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Codes of the nearest values of a table, uint8 in the shape of values."""
    usable = np.flatnonzero(np.isfinite(table))
    order = usable[np.argsort(table[usable], kind="stable")]
    ordered = table[order]
    middles = (ordered[1:] + ordered[:-1]) / 2
    return order[np.searchsorted(middles, values)].astype(np.uint8)


def f32(values: object) -> Entry:
    array = np.asarray(values, "<f4")
    return Entry("F32", array.shape, array.tobytes())


def bf16(values: np.ndarray) -> Entry:
    raw = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((raw + 0x7FFF + ((raw >> 16) & 1)) >> 16).astype("<u2")
    return Entry("BF16", values.shape, rounded.tobytes())


def u8(values: np.ndarray | bytes, dtype: str = "U8") -> Entry:
    array = np.frombuffer(values, np.uint8) if isinstance(values, bytes) else np.ascontiguousarray(values)
    return Entry(dtype, array.shape, array.tobytes())
