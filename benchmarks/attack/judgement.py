"""Whether a changed file was read as all that it still says: by arithmetic of the benchmark's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from scaled_fp8.quant.checkpoint.read import Checkpoint

from .changes import CODES, SCALES
from .file import Entry, parsed, turned_over
from .specimens import Parts, Specimen, from_nibbles, parts_of, turned_back

if TYPE_CHECKING:
    from .reading import Try

NEAR = 0.01  # relative: scales in bfloat16
SANE = 1e5  # a scale that is further off is no model's
BYTES = ("U8", "I8")
WHOLE = ("int8_tensorwise", "int8", "convrot_w4a4")  # formats whose codes are whole numbers


def wrong(made: Try, checkpoint: Checkpoint) -> str:
    if "header" in made.names and (unread := reread(made)):
        return unread
    layers = [found for layer in made.specimen.truth if (found := wrong_layer(made, checkpoint, layer))]
    return "; ".join(layers) or unaccounted(made, checkpoint)


def reread(made: Try) -> str:
    """What passed must pass the safetensors library too; its names and bytes are what is in the file now."""
    try:
        with safe_open(made.main, "np") as file:
            names = set(file.keys())
    except SafetensorError as problem:
        return f"the safetensors library refuses what was read: {problem}"
    made.file = parsed(made.main.read_bytes())
    return "" if names == set(made.file.tensors) else "other names than the safetensors library finds"


def wrong_layer(made: Try, checkpoint: Checkpoint, layer: str) -> str:
    """Why a layer of the model is not what it was; a renamed one is another's layer."""
    truth = made.specimen.truth[layer]
    if layer in checkpoint:
        read = matrix(checkpoint[layer].dequantize().float().numpy(), checkpoint.spec(layer).full_shape)
        return "" if right(made, layer, read, truth) else f"{layer} is read with error {error(read, truth):.3g}"
    tensor = checkpoint.tensors.get(f"{layer}.weight")
    # bytes of other tensors are compared with those of the file
    codes = tensor is not None and tensor.dim() == 2 and "float8" in str(tensor.dtype)
    return f"{layer} is handed on as codes that were not proven" if codes else ""


def matrix(read: np.ndarray, full: tuple[int, ...]) -> np.ndarray:
    """A tensor of more dimensions without those of one element."""
    sides = [length for length in full if length != 1]
    return read.reshape(sides) if len(full) > 2 and len(sides) == 2 else read


def right(made: Try, layer: str, read: np.ndarray, truth: np.ndarray) -> bool:
    """Whether a layer is read as it was, or as all that the changed file still says of it."""
    if near(read, truth):
        return True
    if not np.isfinite(read).all() or not 1 / SANE < size(read) / size(truth) < SANE:
        return False
    if {"transposed", "reshaped"} & {*made.names} and lies_as(made, layer, read, truth):
        return True
    stated = literal(made, layer)
    if stated is None or said_otherwise(made, layer, read, stated):
        return stated is not None
    # a plain cast has nothing beside its codes that says what they are, what is square may be turned, and what the
    # file says that its activations are multiplied by, or that its scale is by another name, is part of what it says
    said = made.specimen.dialect.name == "plain cast" or f"{layer}.pre_quant_scale" in made.file.tensors
    said = said or scale_replaced(made, layer)
    unseen = made.unseen or said or bool({"transposed", "header"} & {*made.names})
    return unseen and near(read, stated)


def scale_replaced(made: Try, layer: str) -> bool:
    """Whether the one scale of a layer is gone and one by another name stands in its place."""
    first, now = (parts_of(tensors, layer) for tensors in (made.specimen.file.tensors, everything(made)))
    own = [suffix for suffix in first if suffix in SCALES]
    return len(own) == 1 and own[0] not in now and own[0] in renamed(now, first, SCALES)


def said_otherwise(made: Try, layer: str, read: np.ndarray, stated: np.ndarray) -> bool:
    """Whether a part that was added says what was read: a marker of other codes, a scale beside a plain cast."""
    parts = parts_of(made.file.tensors, layer)
    if marker_of(parts) != marker_of(parts_of(made.specimen.file.tensors, layer)) and recoded(parts):
        return near(read, stated)
    if made.specimen.dialect.name != "plain cast" or read.shape != stated.shape:
        return False
    added = (
        parts[suffix].values().reshape(-1) for suffix in parts if f"{layer}{suffix}" not in made.specimen.file.tensors
    )
    alike = {float(values[0]) for values in added if values.size and (values == values[0]).all()}
    return any(0 < factor < SANE and near(read, stated * factor) for factor in alike)


def recoded(parts: Parts) -> bool:
    """Whether a marker says that the codes are rotated, or whole numbers, and nothing else contradicts it."""
    marker = marker_of(parts)
    whole = marker.get("format") in WHOLE
    codes = [parts[suffix].dtype for suffix in (".weight", ".float8_data") if suffix in parts]
    return marker.get("convrot") is True or whole and "I8" in codes


def marker_of(parts: Parts) -> dict[str, object]:
    """What a layer's marker says, nothing where it has none or one that is no JSON object."""
    try:
        said = json.loads(parts[".comfy_quant"].data)
    except (KeyError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def lies_as(made: Try, layer: str, read: np.ndarray, truth: np.ndarray) -> bool:
    """Whether a weight whose sides were exchanged is read as all that the file still shows of its sides says.

    A header whose two sides are exchanged is byte for byte that of a weight stored as [in, out]. Markers say that it
    is none, so that its header counts unless its own bias contradicts; where there are none only biases show which it
    is, and where those are gone, or are as long as the other side, no reader knows better.
    """
    stated, turned = literal(made, layer), literal(made, layer, turned=True)
    as_stored, as_turned = near(read, stated), near(read.T, stated) or near(read, turned)
    if made.specimen.dialect.marked and all(f"{name}.comfy_quant" in made.file.tensors for name in made.specimen.truth):
        return as_stored and side(made, layer) is not True
    ways = {way for name in made.specimen.truth if (way := side(made, name)) is not None}
    if not ways:
        return as_stored or as_turned or near(read.T, truth)
    return len(ways) == 1 and (as_turned if True in ways else as_stored)


def side(made: Try, layer: str) -> bool | None:
    """Whether a bias shows that its weight lies as [in, out]; None for neither."""
    weight, bias = (made.file.tensors.get(f"{layer}.{part}") for part in ("weight", "bias"))
    if weight is None or bias is None or len(weight.shape) != 2 or len(bias.shape) != 1:
        return None
    rows, columns = (bias.shape[0] == length for length in weight.shape)
    return None if rows == columns else columns


def literal(made: Try, layer: str, turned: bool = False) -> np.ndarray | None:
    """What the file says now, by its marker or its own dialect's names; turned: of a weight stored as [in, out].

    A factor of the activations is one of the weight's inputs.
    """
    first = parts_of(made.specimen.file.tensors, layer)
    try:
        parts = as_named(parts_of(everything(made), layer), first)
        if turned:
            parts[".weight"] = turned_over(parts[".weight"])
        weight, factor = decoded(made.specimen, parts), parts.get(".pre_quant_scale")
        weight = matrix(weight, weight.shape)
        return weight if factor is None else weight * factor.values().reshape(1, -1)
    except (KeyError, ValueError, IndexError):
        return None


def as_named(parts: Parts, first: Parts) -> Parts:
    """The parts by the names and dtypes of their dialect: lone codes and a lone scale are its own."""
    parts = renamed(renamed(parts, first, CODES), first, SCALES)
    for suffix in (".weight", ".float8_data", ".weight_scale"):
        entry, whole = parts.get(suffix), suffix != ".weight_scale" and marker_of(parts).get("format") in WHOLE
        if entry and suffix in first and first[suffix].dtype.startswith("F8") and entry.dtype in BYTES and not whole:
            parts[suffix] = Entry(first[suffix].dtype, entry.shape, entry.data)
    return parts


def renamed(parts: Parts, first: Parts, known: tuple[str, ...]) -> Parts:
    """With the one part of these names that was added in the place of the one that is gone."""
    own = [suffix for suffix in first if suffix in known]
    added = [suffix for suffix in parts if suffix in known and suffix not in first]
    lone = len(own) == len(added) == 1 and own[0] not in parts
    return {**parts, own[0]: parts[added[0]]} if lone else parts


def decoded(chosen: Specimen, parts: Parts) -> np.ndarray:
    marker = marker_of(parts)
    packed = marker.get("format") == "convrot_w4a4" and parts[".weight"].dtype in BYTES
    weight = from_nibbles(parts) if packed else chosen.dialect.decode(parts)
    if not packed and marker.get("convrot") is not True:
        return weight
    group = marker.get("convrot_groupsize", 256 if packed else marker.get("group_size", 256))
    return turned_back(weight, group) if isinstance(group, int) else weight


def everything(made: Try) -> dict[str, Entry]:
    folder = made.main if made.main.is_dir() else made.main.parent
    aside = folder / (made.specimen.dialect.aside or "none")
    return {**made.file.tensors, **(parsed(aside.read_bytes()).tensors if aside.is_file() else {})}


def near(read: np.ndarray, truth: np.ndarray | None) -> bool:
    return truth is not None and read.shape == truth.shape and error(read, truth) < NEAR


def error(read: np.ndarray, truth: np.ndarray) -> float:
    if read.shape != truth.shape:
        return float("inf")
    return float(np.linalg.norm(read - truth) / max(float(np.linalg.norm(truth)), 1e-30))


def size(values: np.ndarray) -> float:
    return float(np.sqrt((values.astype(np.float64) ** 2).mean())) or 1e-30


def unaccounted(made: Try, checkpoint: Checkpoint) -> str:
    """Keys of the file that are in no layer and among no tensors, or whose bytes are others."""
    owners = set(checkpoint)
    ignored = [reason for reason in checkpoint.verdict.reasons if "ignored" in reason]
    for key, entry in made.file.tensors.items():
        if key in checkpoint.tensors:
            if key not in checkpoint.tensors.biases and bytes_of(checkpoint.tensors[key]) != entry.data:
                return f"{key!r} has other bytes"
        elif not belongs(key, owners) and not (ignored and "scale" in key):
            return f"{key!r} is lost"
    return ""


def belongs(key: str, owners: set[str]) -> bool:
    if key.rpartition(".")[2] in ("comfy_quant", "scaled_fp8") or key.removesuffix(":_data") != key:
        return True
    return any(key == owner or key.startswith(f"{owner}.") or not owner for owner in owners)


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
