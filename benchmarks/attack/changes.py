"""What is done to a file. Each change says whether a reader can see it; what none can see is another model as good."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scaled_fp8.quant.checkpoint.keys import SUFFIXES

from .file import WIDTHS, Entry, File, bf16, f32, joined, turned_over, u8

COMPANIONS = sorted({*SUFFIXES, ".scale", ".alpha", ".smooth", ".lora_up", ".lora_down"})
SCALES = tuple(suffix for suffix in COMPANIONS if "scale" in suffix and "input" not in suffix)
CODES = (".weight", ".weight._data", ".float8_data", ".qweight", ".weight_packed")
FACTORS = (0.0, -1.0, float("nan"), float("inf"), 1e-30, 1e30, 1e-7, 1e7, 1e-5, 1e5)
ODD: tuple[Any, ...] = (0, -1, 7, 64.0, 2**31, 2**63, 2**64, -(2**40), 0.5, None, "1", [], True, 1e400)
NAMES = ("\u202egnp", "a\x00b", "l\nine", "\x1b[2J", "é", "e\u0301", "𝔴", "…" * 200, " ", ".", "..", "/etc/passwd",
         "__metadata__ ", "weight", "\ufeff", "x" * 9000, "blocks.0", "=cmd|' /C calc'!A0")  # fmt: skip
FORMATS: tuple[Any, ...] = ("float8_e4m3fn", "float8_e5m2", "FLOAT8_E4M3FN", "fp8", "nvfp4", "mxfp8",
           "int8_tensorwise", "int8", "float9", "", " float8_e4m3fn", None, 7, [], {"a": 1},
           "convrot_w4a4", "svdquant_w4a4")  # fmt: skip
METHODS = ("fp8", "modelopt", "compressed-tensors", "sdnq", "nunchaku", "torchao", "quanto", "awq", "float9", "", None)


@dataclass(frozen=True)
class Change:
    """A change of a file's tensors; unseen: no reader can tell the result from a sound model."""

    apply: Callable[[File, random.Random], object]
    unseen: bool = False

    @property
    def name(self) -> str:
        return self.apply.__name__


def some(file: File, rng: random.Random) -> str:
    return rng.choice(list(file.tensors))


def layer(file: File, rng: random.Random) -> str:
    """A module's name, rather one with a scale."""
    return some(file, rng).rpartition(".")[0]


def exchange(file: File, one: str, other: str) -> None:
    file.tensors[one], file.tensors[other] = file.tensors[other], file.tensors[one]


##### Dtypes and shapes


def dtype_relabelled(file: File, rng: random.Random) -> None:
    """Other numbers by the same bytes, of the same width."""
    key = some(file, rng)
    entry = file.tensors[key]
    dtype = rng.choice([d for d, width in WIDTHS.items() if width == WIDTHS[entry.dtype]])
    file.tensors[key] = Entry(dtype, entry.shape, entry.data)


def dtypes_exchanged(file: File, rng: random.Random) -> None:
    first, second = some(file, rng), some(file, rng)
    one, other = file.tensors[first], file.tensors[second]
    if WIDTHS[one.dtype] == WIDTHS[other.dtype]:
        file.tensors |= {first: Entry(other.dtype, one.shape, one.data)}
        file.tensors |= {second: Entry(one.dtype, other.shape, other.data)} if first != second else {}


def width_changed(file: File, rng: random.Random) -> None:
    """Bytes read as fewer or more numbers."""
    key = some(file, rng)
    entry = file.tensors[key]
    dtype = rng.choice(list(WIDTHS))
    if entry.shape and not len(entry.data) % WIDTHS[dtype]:
        rows = entry.shape[0] if not len(entry.data) % (WIDTHS[dtype] * max(1, entry.shape[0])) else 1
        columns = len(entry.data) // WIDTHS[dtype] // max(1, rows)
        file.tensors[key] = Entry(dtype, (rows, columns), entry.data)


def reshaped(file: File, rng: random.Random) -> None:
    key = some(file, rng)
    entry = file.tensors[key]
    old = list(entry.shape)
    flat = int(np.prod(old))
    shapes = [old[::-1], [flat], [1, *old], [*old, 1], [flat, 1], [1, flat], [*old, 1, 1]]
    shapes += [[old[0] // 2, 2 * old[1]], [2 * old[0], old[1] // 2]] if len(old) == 2 and not old[0] % 2 else []
    shape = rng.choice([s for s in shapes if int(np.prod(s)) == flat])
    file.tensors[key] = Entry(entry.dtype, tuple(shape), entry.data)


def emptied(file: File, rng: random.Random) -> None:
    key = some(file, rng)
    file.tensors[key] = Entry(file.tensors[key].dtype, rng.choice(((0,), (0, 32), (64, 0), (0, 0))), b"")


def transposed(file: File, rng: random.Random) -> None:
    """Codes of two sides written the other way round, as some producers do."""
    key = some(file, rng)
    entry = file.tensors[key]
    if len(entry.shape) == 2:
        file.tensors[key] = turned_over(entry)


##### Companions


def dropped(file: File, rng: random.Random) -> None:
    del file.tensors[some(file, rng)]


def doubled(file: File, rng: random.Random) -> None:
    """A companion again under another name of the dictionary, as it is or times something."""
    key, suffix = some(file, rng), rng.choice(COMPANIONS)
    entry = file.tensors[key]
    if entry.dtype == "F32" and rng.random() < 0.5:
        entry = f32(entry.values() * rng.choice((2, 0.5, 1e3)))
    file.tensors.setdefault(layer(file, rng) + suffix, entry)


def renamed(file: File, rng: random.Random) -> None:
    key = some(file, rng)
    new = rng.choice([key.rpartition(".")[0] + rng.choice(COMPANIONS), key + "s", key.upper(), "x." + key, key[:-1]])
    if new not in file.tensors:
        file.tensors[new] = file.tensors.pop(key)


def companion_added(file: File, rng: random.Random) -> None:
    """Any name of the dictionary beside any module, with numbers that fit something."""
    name = layer(file, rng) + rng.choice(COMPANIONS)
    shape = rng.choice(((), (1,), (64,), (32,), (64, 1), (1, 32), (2, 2), (96,), (16,), (64, 4), (4, 32)))
    values = np.full(shape, rng.choice((*FACTORS, 1.0, 0.5, 3.0)), np.float32)
    file.tensors.setdefault(name, rng.choice((f32, bf16))(values))


def scale_of_nobody(file: File, rng: random.Random) -> None:
    file.tensors[f"blocks.{rng.randrange(3)}.ghost{rng.choice(SCALES)}"] = f32(1e-3)


def scale_broken(file: File, rng: random.Random) -> None:
    """A scale that is no number or far off."""
    if key := a_scale(file, rng):
        file.tensors[key] = f32(file.tensors[key].values() * np.float32(rng.choice(FACTORS)))


def a_scale(file: File, rng: random.Random) -> str:
    """The key of one, "" where there is none."""
    return rng.choice(
        [k for k, e in file.tensors.items() if e.dtype == "F32" and k.endswith(SCALES) and e.data] or [""]
    )


def value_broken(file: File, rng: random.Random) -> None:
    """One value of a scale: what is no number, or negative, must be seen; a row of small weights may be one."""
    if key := a_scale(file, rng):
        values = file.tensors[key].values().copy()
        values.reshape(-1)[rng.randrange(values.size)] *= rng.choice(FACTORS)
        file.tensors[key] = f32(values)


def scale_cut(file: File, rng: random.Random) -> None:
    """A vector of another length; one of few values may be of a layer that was fused of so many."""
    if key := a_scale(file, rng):
        values = file.tensors[key].values().reshape(-1)
        cut = rng.choice([values[:-1], np.append(values, values), np.append(values, 1e-3), values[: len(values) // 2]])
        file.tensors[key] = f32(cut)


def scale_recast(file: File, rng: random.Random) -> None:
    """The same scale in another float: no other model."""
    if key := a_scale(file, rng):
        values = file.tensors[key].values()
        half = Entry("F16", values.shape, values.astype("<f2").tobytes())
        double = Entry("F64", values.shape, values.astype("<f8").tobytes())
        file.tensors[key] = rng.choice((bf16(values), half, double))


def weight_doubled(file: File, rng: random.Random) -> None:
    """A second weight of a layer."""
    key = rng.choice([k for k in file.tensors if k.endswith((".weight", ".float8_data"))])
    new = key.rpartition(".")[0] + rng.choice(CODES)
    file.tensors.setdefault(new, file.tensors[key])


##### Markers, metadata, names


def marked(file: File, rng: random.Random) -> None:
    said: object = {"format": rng.choice(FORMATS)}
    if isinstance(said, dict) and rng.random() < 0.5:
        key = rng.choice(
            ("group_size", "convrot", "convrot_groupsize", "orig_shape", "params", "fromat", "act_unsigned")
        )
        said[key] = rng.choice((64, True, [64, 32], [1, 1], {"group_size": 7}, None, "x", -1))
    text = json.dumps(said) if rng.random() < 0.9 else rng.choice(("", "{", "[]", "null", "1", '{"a":1,"a":2}'))
    file.tensors[f"{layer(file, rng)}.comfy_quant"] = u8(text.encode())


def metadata_lies(file: File, rng: random.Random) -> None:
    names = rng.sample([layer(file, rng), "nowhere", "blocks.0.norm", "*", ""], 2)
    table = {name: {"format": rng.choice(FORMATS)} for name in names}
    file.metadata[rng.choice(("_quantization_metadata", "quantization_config", "tensor_names", "model_type"))] = (
        json.dumps(rng.choice((
            {"format_version": "1.0", "layers": table}, {"format_version": "9", "layers": table}, {"layers": names},
            {"quant_method": rng.choice(METHODS), "weight_block_size": [rng.choice((1, 64, 128, 0, -1))] * 2},
        )))
    )  # fmt: skip


def name_changed(file: File, rng: random.Random) -> None:
    """A whole module, or one key, under a name that no terminal should obey."""
    old, odd = layer(file, rng), rng.choice(NAMES)
    file.tensors = {(odd + key if key.startswith(old) else key): entry for key, entry in file.tensors.items()}


def stranger_added(file: File, rng: random.Random) -> None:
    """Something else in the file, which must be handed on."""
    kind = rng.choice(list(WIDTHS))
    file.tensors[rng.choice(NAMES)] = Entry(kind, (2, 3), rng.randbytes(6 * WIDTHS[kind]))


def scopes_mixed(file: File, rng: random.Random) -> None:
    """One layer under a component's prefix, the other not."""
    old, prefix = layer(file, rng), rng.choice(("model.diffusion_model.", "net.", "transformer.", "vae."))
    file.tensors = {(prefix + key if key.startswith(old) else key): entry for key, entry in file.tensors.items()}


##### What no reader can see


def codes_flipped(file: File, rng: random.Random) -> None:
    key = some(file, rng)
    entry = file.tensors[key]
    data = bytearray(entry.data)
    for _ in range(rng.choice((1, 8)) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.tensors[key] = Entry(entry.dtype, entry.shape, bytes(data))


def scales_mild(file: File, rng: random.Random) -> None:
    if key := a_scale(file, rng):
        file.tensors[key] = f32(file.tensors[key].values() * np.float32(2 ** rng.uniform(-3, 3)))


def alike_exchanged(file: File, rng: random.Random) -> None:
    """Two tensors of one dtype and shape."""
    one, other = some(file, rng), some(file, rng)
    if file.tensors[one].dtype == file.tensors[other].dtype and file.tensors[one].shape == file.tensors[other].shape:
        exchange(file, one, other)


def reordered(file: File, rng: random.Random) -> None:
    keys = list(file.tensors)
    rng.shuffle(keys)
    file.tensors = {key: file.tensors[key] for key in keys}


SEEN = (
    dtype_relabelled, dtypes_exchanged, width_changed, reshaped, emptied, transposed, dropped, doubled, renamed,
    companion_added, scale_of_nobody, scale_broken, weight_doubled, marked, metadata_lies,
    name_changed, stranger_added, scopes_mixed, reordered,
)  # fmt: skip
UNSEEN = (codes_flipped, scales_mild, alike_exchanged, value_broken, scale_cut, scale_recast)
CHANGES = (*(Change(apply) for apply in SEEN), *(Change(apply, unseen=True) for apply in UNSEEN))


##### The header itself: what is read must be what the safetensors library reads


def header_surgery(file: File, rng: random.Random) -> bytes:
    """The file with its header's text or numbers wrong in one place."""
    fields, data = file.header(), b"".join(entry.data for entry in file.tensors.values())
    kind, key, other = rng.randrange(9), some(file, rng), some(file, rng)
    one, two = fields[key], fields[other]
    assert isinstance(one, dict) and isinstance(two, dict)
    if kind == 0:
        one["data_offsets"], two["data_offsets"] = two["data_offsets"], one["data_offsets"]
    elif kind == 1:
        one[rng.choice(("data_offsets", "shape"))] = [rng.choice(ODD), rng.choice(ODD)]
    elif kind == 2:
        one["data_offsets"] = [n + rng.choice((-1, 1, 4, 64)) for n in one["data_offsets"]]
    elif kind == 3:
        one[rng.choice(("data_offsets", "shape", "dtype", "more"))] = rng.choice(ODD)
    elif kind == 4:
        fields["__metadata__"] = rng.choice((None, [], {"a": 1}, {"a": None}, "x", {"a": {"b": "c"}}))
    text = json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if kind == 5:
        text = text[:-1] + f", {json.dumps(key)}: {json.dumps(two)}}}".encode()
    elif kind == 6:
        text = rng.choice((b"\xef\xbb\xbf", b" ", b"\n", b"\x00")) + text + rng.choice((b"", b" ", b"\x00", b"\n {}"))
    elif kind == 7:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice((b"", b"0", b"}", b'"', b",", b"\\u0000", b"1e1", b"-")) + text[at + 1 :]
    raw = joined(text, data)
    if kind == 8:
        length = rng.choice((0, 1, len(text) - 1, len(text) + 1, len(raw), 2**40, 2**64 - 1, rng.getrandbits(64)))
        raw = length.to_bytes(8, "little") + raw[8:]
    cut = rng.random()
    return raw[: rng.randrange(len(raw))] if cut < 0.05 else raw + b"\x00" * rng.choice((1, 8)) if cut < 0.1 else raw
