"""What lies beside a model and belongs to it: configurations, and scales in files of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import Refused
from .header import LARGEST_HEADER, NotJson, as_object
from .memory import loaded
from .pickles import load_pickle, located
from .reader import OnDisk, open_regular, read_safetensors
from .stored import Stored

SIDECARS = (
    "config.json",
    "hf_quant_config.json",
    "quantization_config.json",
    "params.json",
    "quanto_qmap.json",
    "comfy_config.json",
)
SCALES = "fp8_scales.safetensors"
# what describes more than quantization, and is no matter where it does not
GENERAL = ("config.json", "params.json", "comfy_config.json")
UNREAD = "//unread"  # key under which a description that is unsound elsewhere says so


def sidecars_of(main: Path) -> list[Path]:
    """The files that lie beside main and belong to it."""
    return [*descriptions_of(main), *(path for path in (angelslim_of(main), hunyuan_of(main)) if path.is_file())]


def descriptions_of(main: Path) -> list[Path]:
    names = (*SIDECARS, f"{main.stem}_qmap.json", f"{main.stem}_map.json")
    return [main.parent / name for name in names if (main.parent / name).is_file()]


def angelslim_of(main: Path) -> Path:
    return main.parent / SCALES


def hunyuan_of(main: Path) -> Path:
    return main.with_name(f"{main.stem}_map.pt")


def read_sidecars(main: Path) -> dict[str, dict[str, Any]]:
    """File name -> JSON of the files beside main that describe quantization."""
    return {path.name: read_json(path) for path in descriptions_of(main)}


def json_text(path: Path) -> bytes:
    with open_regular(path) as file:
        text = file.read(LARGEST_HEADER + 1)
    if len(text) > LARGEST_HEADER:
        raise Refused(f"more than {LARGEST_HEADER} bytes of JSON are not read; remove it or fetch it again.", file=path)
    return text


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file beside a model; of a general one that is unsound the part on quantization, if that is sound."""
    text = json_text(path)
    try:
        return as_object(text)
    except NotJson as problem:
        part = about_quantization(text) if path.name in GENERAL else None
        if part is None:
            raise Refused(f"{problem}; fetch it again.", file=path) from None
        return part | {UNREAD: str(problem)}


class Doubled(dict[str, Any]):
    """A JSON object that has a key twice."""


def about_quantization(text: bytes) -> dict[str, Any] | None:
    """The entries on quantization of a JSON file that is unsound elsewhere; None where they are too."""
    silent: dict[str, Any] | None = None if b"quant" in text.lower() else {}
    try:
        value = json.loads(text, object_pairs_hook=tolerant)
    except (ValueError, RecursionError):
        return silent
    if not isinstance(value, dict):
        return silent
    part = {key: entry for key, entry in value.items() if "quant" in key.lower()}
    return None if part and isinstance(value, Doubled) or unsound(part) else part


def tolerant(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else Doubled(fields)


def unsound(value: Any) -> bool:
    """Whether JSON holds a key twice or a number that is none."""
    if isinstance(value, dict):
        return isinstance(value, Doubled) or any(map(unsound, value.values()))
    return any(map(unsound, value)) if isinstance(value, list) else isinstance(value, float) and not isfinite(value)


def read_scales(main: Path, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Scales from files of their own, if they are this model's: at least one names a weight of it."""
    scales = angelslim_scales(angelslim_of(main)) | hunyuan_scales(hunyuan_of(main))
    weights = {name.removesuffix(".weight") for name in tensors if name.endswith(".weight")}
    if not any(module_of(name) in weights for name in scales):
        return {}
    return {name: scale for name, scale in scales.items() if not repeated(scale, tensors.get(name), main)}


def module_of(name: str) -> str:
    return name.removesuffix(".fp8_map_scale").removesuffix(".weight_scale")


def repeated(scale: Stored, known: Stored | None, main: Path) -> bool:
    """Whether the file of the model has a sidecar's scale too; refused if it has another one."""
    if known is None:
        return False
    same = known.info == scale.info and torch.equal(values(known).float(), values(scale).float())
    if not same:
        raise Refused(f"{scale.info.name!r} differs from the one in {scale.origin}; remove the stale one.", file=main)
    return True


def values(stored: Stored) -> Tensor:
    return stored.read(0, stored.info.numel)


def angelslim_scales(path: Path) -> dict[str, Stored]:
    tensors = read_safetensors(path).tensors if path.is_file() else {}
    named = {f"{name.removesuffix('.weight_scale')}.weight_scale": scale for name, scale in tensors.items()}
    return {name: renamed(scale, name) for name, scale in named.items()}


def renamed(stored: Stored, name: str) -> Stored:
    assert isinstance(stored, OnDisk)
    return replace(stored, info=replace(stored.info, name=name))


def hunyuan_scales(path: Path) -> dict[str, Stored]:
    if not path.is_file():
        return {}
    scales, records = load_pickle(path)
    named = {f"{module}.fp8_map_scale": value for module, value in scales.items()}
    return {name: number(name, value, path) or located(name, value, records) for name, value in named.items()}


def number(name: str, value: object, path: Path) -> Stored | None:
    """A scale that is no tensor, as one; of a whole number only where float32 has it."""
    if not isinstance(value, float | int) or isinstance(value, int) and abs(value) >= 1 << 127:
        return None
    return loaded(name, torch.tensor(value, dtype=torch.float32), path.name, own=False)
