"""Ways to damage a safetensors file, seeded. SEEN must be noticed or do no harm; UNSEEN is what no reader can see.

A changed bit among the codes or the high-precision tensors is another weight as good as the first; a scale off by
less than 16, or two tensors of one shape exchanged, is a plausible file of another model.
"""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass
class File:
    """A safetensors file taken apart; header is its JSON, data the bytes after it."""

    header: dict
    data: bytearray

    @classmethod
    def of(cls, raw: bytes) -> File:
        (size,) = struct.unpack("<Q", raw[:8])
        return cls(json.loads(raw[8 : 8 + size]), bytearray(raw[8 + size :]))

    def raw(self) -> bytes:
        text = json.dumps(self.header, separators=(",", ":")).encode()
        return struct.pack("<Q", len(text)) + text + bytes(self.data)

    def names(self) -> list[str]:
        return [key for key in self.header if key != "__metadata__"]

    def span(self, key: str) -> tuple[int, int]:
        start, stop = self.header[key]["data_offsets"]
        return start, stop


Mutation = Callable[[File, random.Random], "bytes | None"]
SCALE = re.compile(
    r"(weight_scale|scale_weight|weight_scale_inv|weight\._scale|_weight_scale|scale_reciprocal|weight_scale_2"
    r"|wscales|wtscale|wcscales|weight_global_scale|weight_s_rel|weight_s_channel|pre_quant_scale|smooth_factor)$"
)
SIGNED = re.compile(r"(proj_up|proj_down|weight_zero|wzeros|weight_codebook)$")
FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
ODD = (0, 1, -1, 7, 2**31, 2**53, 2**63, 2**64, -(2**40), 0.5, None, "1", [], True)
DTYPES = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E8M0", "U8", "I8", "BF16", "F16", "F32", "F64", "I64", "BOOL", "F4",
          "", "f32", None, 3)  # fmt: skip


def any_key(file: File, rng: random.Random) -> str:
    """A tensor's name, rather one that matters."""
    keys = file.names()
    scales = [key for key in keys if SCALE.search(key)]
    return rng.choice(scales if scales and rng.random() < 0.4 else keys)


def spliced(raw: bytes, at: int, gone: int, put: bytes) -> bytes:
    return raw[:at] + put + raw[at + gone :]


# ---- what a reader must see ---------------------------------------------------------------------------------------


def length_field(file: File, rng: random.Random) -> bytes:
    raw = file.raw()
    (size,) = struct.unpack("<Q", raw[:8])
    new = rng.choice(
        [0, 1, 2, size - 1, size + 1, size + rng.randrange(64), len(raw), 2**31, 2**63, rng.getrandbits(64)]
    )
    return struct.pack("<Q", new) + raw[8:]


def header_byte(file: File, rng: random.Random) -> bytes:
    raw = file.raw()
    (size,) = struct.unpack("<Q", raw[:8])
    return spliced(raw, 8 + rng.randrange(size), 1, bytes([rng.choice(b'09az"{}[],:._\\ \x00\xff-')]))


def header_cut(file: File, rng: random.Random) -> bytes:
    text = json.dumps(file.header).encode()
    text = text[: rng.randrange(len(text))]
    return struct.pack("<Q", len(text)) + text + bytes(file.data)


def header_other(file: File, rng: random.Random) -> bytes:
    text = rng.choice(
        [b"[]", b"{}", b"null", b"1", b'"x"', b"[" * 5000, b'{"a":' * 3000, b"\xff\xfe", b'{"a":1e999}', b""]
    )
    return struct.pack("<Q", len(text)) + text + bytes(file.data)


def truncated(file: File, rng: random.Random) -> bytes:
    raw = file.raw()
    return raw[: rng.choice([rng.randrange(len(raw)), rng.randrange(12), len(raw) - 1])]


def appended(file: File, rng: random.Random) -> bytes:
    return file.raw() + rng.randbytes(rng.choice([1, 2, 8, 1000]))


def offset(file: File, rng: random.Random) -> None:
    pair = file.header[any_key(file, rng)]["data_offsets"]
    i = rng.randrange(2)
    pair[i] = rng.choice([*ODD, pair[i] + 1, pair[i] - 1, pair[i] + 64, pair[1 - i]])


def offsets_form(file: File, rng: random.Random) -> None:
    entry = file.header[any_key(file, rng)]
    entry["data_offsets"] = rng.choice([[], [0], [0, 1, 2], None, "0,4", {}, entry["data_offsets"][::-1]])


def dtype(file: File, rng: random.Random) -> None:
    file.header[any_key(file, rng)]["dtype"] = rng.choice(DTYPES)


def shape(file: File, rng: random.Random) -> None:
    entry = file.header[any_key(file, rng)]
    old = entry["shape"]
    ones = [1, *old] if rng.random() < 0.5 else [*old, 1]
    halves = [old[0] // 2, *old[1:-1], old[-1] * 2] if len(old) > 1 else [2, *old]
    flat = [torch.Size(old).numel()]
    entry["shape"] = rng.choice(
        [ones, halves, flat, old[::-1], old[1:], [*old, 0], [rng.choice(ODD)], None, 3, "x", [*old, 2]]
    )


def entry_form(file: File, rng: random.Random) -> None:
    key = any_key(file, rng)
    entry = file.header[key]
    del entry[rng.choice(list(entry))]
    if rng.random() < 0.3:
        file.header[key] = rng.choice([None, [], 1, "x"])


def renamed(file: File, rng: random.Random) -> None:
    key = any_key(file, rng)
    stem, _, last = key.rpartition(".")
    names = [f"{key}s", key[:-1], f"x.{key}", stem, last, key.upper(), key.replace("weight", "wieght"), f"{stem}.scale",
             f"{stem}.{last}_2", f"{stem}.weight.{last}", "", "é\n." + last, key.replace(".", "_")]  # fmt: skip
    new = rng.choice([name for name in names if name not in file.header])
    file.header = {new if k == key else k: v for k, v in file.header.items()}


def dropped(file: File, rng: random.Random) -> None:
    """A tensor and its bytes are gone; what is left is a well-formed file."""
    cut(file, any_key(file, rng))


def cut(file: File, key: str) -> None:
    start, stop = file.span(key)
    del file.header[key], file.data[start:stop]
    for other in file.names():
        pair = file.header[other]["data_offsets"]
        file.header[other]["data_offsets"] = [p - (stop - start) if p >= stop else p for p in pair]


def hole(file: File, rng: random.Random) -> None:
    del file.header[any_key(file, rng)]


def doubled_key(file: File, rng: random.Random) -> bytes:
    """The same name twice in the JSON, with another dtype or place."""
    key, other = any_key(file, rng), any_key(file, rng)
    text = json.dumps(file.header)[:-1] + f", {json.dumps(key)}: {json.dumps(file.header[other])}}}"
    return struct.pack("<Q", len(text.encode())) + text.encode() + bytes(file.data)


def copied(file: File, rng: random.Random) -> None:
    """One more tensor: a copy under another name, appended, so that the file stays well-formed."""
    key = any_key(file, rng)
    start, stop = file.span(key)
    new = rng.choice([key.replace("weight_scale", "scale_weight"), key.replace("blocks.0", "blocks.9"), f"{key}_inv",
                      f"{key}.weight_scale", "scaled_fp8", f"x.{key}"])  # fmt: skip
    if new not in file.header:
        end = len(file.data)
        file.header[new] = {**file.header[key], "data_offsets": [end, end + stop - start]}
        file.data += file.data[start:stop]


def metadata(file: File, rng: random.Random) -> None:
    values = ["", "{}", "null", "[]", "{", '{"layers": 3}', '{"layers": {"blocks.0.mlp.0": 1}}', 7, None, {"a": 1},
              "x" * 9999,
              '{"format_version": "1.0", "layers": {"blocks.0.mlp.0": {"format": "float9"}}}',
              '{"format_version": "1.0", "layers": {"nowhere": {"format": "float8_e4m3fn"}}}']  # fmt: skip
    table = file.header.setdefault("__metadata__", {})
    name = rng.choice([*table, "_quantization_metadata", "quantization_config", "tensor_names", "format", "model_type"])
    table[name] = rng.choice(values)
    if rng.random() < 0.2:
        file.header["__metadata__"] = rng.choice([None, 1, [], "x", {}])


def bad_scale(file: File, rng: random.Random) -> None:
    """A scale that is no number, not positive, or off by a factor that no network has."""
    keys = [key for key in file.names() if SCALE.search(key) and file.header[key]["dtype"] in FLOATS]
    if not keys:
        return
    rescale(file, rng.choice(keys), rng.choice([0.0, float("nan"), float("inf"), -1.0, 1e5, 1e7, 1e-5, 1e-8]))


def rescale(file: File, key: str, factor: float) -> None:
    start, stop = file.span(key)
    kind = FLOATS[file.header[key]["dtype"]]
    value = torch.frombuffer(bytearray(file.data[start:stop]), dtype=kind).double()
    file.data[start:stop] = (value * factor).to(kind).view(torch.uint8).numpy().tobytes()


def bad_companion(file: File, rng: random.Random) -> None:
    """What lies beside a scale is no number, or so large that no network has it."""
    keys = [key for key in file.names() if SIGNED.search(key) and file.header[key]["dtype"] in FLOATS]
    if keys:
        rescale(file, rng.choice(keys), rng.choice([float("nan"), float("inf"), 1e5, 1e7]))


def unknown_marker(file: File, rng: random.Random) -> None:
    """A layer's marker, its own or a new one, that names a format nobody knows, or says nothing that can be read."""
    keys = [key for key in file.names() if key.endswith(".comfy_quant")]
    stems = [key.rpartition(".")[0] for key in file.names() if SCALE.search(key)]
    key = rng.choice(keys or [f"{stem}.comfy_quant" for stem in stems] or ["x.comfy_quant"])
    named = rng.choice(["float9", "int8_magic", "FLOAT9", "fp4", "", None, 7, ["int8_tensorwise"], {"a": 1}, True])
    text = json.dumps({"format": named, "group_size": 64}) if rng.random() < 0.9 else rng.choice(["[]", "{", "7", "x"])
    add(file, key, text.encode())


def add(file: File, key: str, content: bytes) -> None:
    """Bytes under this name at the end of the file; what had the name before is cut out."""
    if key in file.header:
        cut(file, key)
    end = len(file.data)
    file.header[key] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [end, end + len(content)]}
    file.data += content


def marker_byte(file: File, rng: random.Random) -> None:
    keys = [key for key in file.names() if key.endswith((".comfy_quant", "scaled_fp8"))]
    if keys and (span := file.span(rng.choice(keys)))[0] < span[1]:
        file.data[rng.randrange(*span)] = rng.randrange(256)


# ---- what no reader can see ----------------------------------------------------------------------------------------


def flipped_bits(file: File, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 2, 8])):
        file.data[rng.randrange(len(file.data))] ^= 1 << rng.randrange(8)


def mild_scale(file: File, rng: random.Random) -> None:
    """A scale of a layer off by less than 16."""
    keys = [key for key in file.names() if SCALE.search(key) and file.header[key]["dtype"] == "F32"]
    if keys:
        start, stop = file.span(rng.choice(keys))
        value = torch.frombuffer(bytearray(file.data[start:stop]), dtype=torch.float32)
        file.data[start:stop] = (value * 2 ** rng.uniform(-4, 4)).view(torch.uint8).numpy().tobytes()


def exchanged(file: File, rng: random.Random) -> None:
    """Two tensors of one dtype and shape change places."""
    one, two = file.header[any_key(file, rng)], file.header[any_key(file, rng)]
    if (one["dtype"], one["shape"]) == (two["dtype"], two["shape"]):
        one["data_offsets"], two["data_offsets"] = two["data_offsets"], one["data_offsets"]


SEEN: tuple[Mutation, ...] = (
    length_field, header_byte, header_cut, header_other, truncated, appended, offset, offsets_form, dtype, shape,
    entry_form, renamed, dropped, hole, doubled_key, copied, metadata, bad_scale, bad_companion, unknown_marker,
    marker_byte,
)  # fmt: skip
UNSEEN: tuple[Mutation, ...] = (flipped_bits, mild_scale, exchanged)
