"""From a path to a Source: one file, shards and their index, folders, pickles, and what lies beside a model."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .header import LARGEST_HEADER, Malformed, TensorInfo, as_object
from .refusal import Refused
from .stored import (
    Contents,
    Loaded,
    OnDisk,
    Source,
    StateDictSource,
    Stored,
    first_line,
    loaded,
    open_regular,
    read_safetensors,
)

STORES = (".safetensors", ".sft")
PICKLES = (".pt", ".pth", ".bin", ".ckpt")

SIDECARS = (
    "config.json",
    "hf_quant_config.json",
    "quantization_config.json",
    "params.json",
    "quanto_qmap.json",
    "comfy_config.json",
)
SCALES = "fp8_scales.safetensors"
COMPONENTS = ("transformer", "unet")
# top keys under which trainers put the state dict
WRAPPERS = ("module", "state_dict", "model")


def open_source(path: str | os.PathLike[str] | Source) -> Source:
    """A .safetensors file, a sharded index.json, a folder with one checkpoint, or a .pt file of plain tensors.

    Scales in a file of their own are merged in: ``fp8_scales.safetensors`` (AngelSlim; a bare ``X`` becomes
    ``X.weight_scale``) and ``NAME_map.pt`` beside ``NAME.pt`` (HunyuanVideo; ``X`` becomes ``X.fp8_map_scale``).
    """
    if isinstance(path, Source):
        return path
    path = Path(path)
    try:
        return read_all(checkpoint_in(path) if path.is_dir() else path, path)
    except (OSError, ValueError) as problem:
        raise Refused(f"{path}: cannot be read: {first_line(problem)}.") from None


def read_all(main: Path, path: Path) -> Source:
    contents = reader_of(main)(main)
    scales = read_scales(main, contents.tensors)
    return Source({**contents.tensors, **scales}, contents.metadata, read_sidecars(main), path, str(path))


def reader_of(path: Path) -> Callable[[Path], Contents]:
    """What reads a file, by the end of its name."""
    if path.suffix == ".json":
        return read_shards
    if path.suffix in STORES:
        return read_safetensors
    if path.suffix in PICKLES:
        return read_pickle
    open_regular(path).close()
    kinds = ", ".join((*STORES, ".index.json", *PICKLES))
    raise Refused(f"{path}: files named *{path.suffix or path.name} are not read here; give one of {kinds}.")


##### Folders


def checkpoint_in(folder: Path) -> Path:
    """The one checkpoint of a folder; of a pipeline, its transformer's or unet's."""
    if (folder / "model_index.json").exists():
        return checkpoint_in(the_only([folder / c for c in COMPONENTS if (folder / c).is_dir()], folder))
    for suffixes in ((".index.json",), STORES, PICKLES):
        found = [p for p in sorted(folder.iterdir()) if p.name.endswith(suffixes) and is_main(p)]
        if found:
            return the_only(found, folder)
    raise Refused(f"{folder}: the folder holds no checkpoint; name a .safetensors file or a folder that holds one.")


def is_main(path: Path) -> bool:
    """Whether a file is a model's, not a companion of one."""
    return path.name != SCALES and not path.stem.endswith("_map") and not path.name.startswith(".")


def the_only(found: list[Path], folder: Path) -> Path:
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found[:4]) + (", ..." if len(found) > 4 else "")
    raise Refused(f"{folder}: the folder holds {len(found)} checkpoints ({names}), not one; name the one to read.")


##### Shards


def read_shards(index: Path) -> Contents:
    """The tensors of all shards that an index.json lists."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise Refused(f"{index}: this JSON has no weight_map of file names; give the *.safetensors.index.json.")
    shards = {name: read_safetensors(shard_path(index, name)) for name in sorted(set(weight_map.values()))}
    for key, name in weight_map.items():
        if key not in shards[name].tensors:
            raise Refused(f"{index}: {key!r} should be in {name} but is not there; fetch both again.")
    return Contents(merged(shards, index), merge_metadata([shard.metadata for shard in shards.values()]))


def shard_path(index: Path, name: str) -> Path:
    if Path(name).name != name or not name.endswith(STORES):
        raise Refused(f"{index}: the shard {name!r} is not the name of a safetensors file beside it.")
    if not (index.parent / name).exists():
        raise Refused(f"{index}: the shard {name} is missing; fetch it into the same folder.")
    return index.parent / name


def merged(shards: Mapping[str, Contents], index: Path) -> dict[str, Stored]:
    tensors: dict[str, Stored] = {}
    for name, shard in shards.items():
        twice = next((key for key in shard.tensors if key in tensors), None)
        if twice is not None:
            raise Refused(f"{index}: {twice!r} is in both {tensors[twice].origin} and {name}; one of them is stale.")
        tensors |= shard.tensors
    return tensors


def merge_metadata(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Metadata of several headers; where JSON values differ they are joined, of other values the first is kept."""
    result: dict[str, str] = {}
    for part in parts:
        for key, value in part.items():
            result[key] = joined(result[key], value) if key in result else value
    return result


def joined(first: str, second: str) -> str:
    if first == second:
        return first
    try:
        return json.dumps(union(json.loads(first), json.loads(second)))
    except (ValueError, RecursionError):
        return first


def union(first: Any, second: Any) -> Any:
    """Dictionaries key by key, lists end to end, else the first."""
    if isinstance(first, dict) and isinstance(second, dict):
        both = {key: union(first[key], second[key]) for key in first.keys() & second.keys()}
        return first | second | both
    return first + second if isinstance(first, list) and isinstance(second, list) else first


##### Pickles


def read_pickle(path: Path) -> Contents:
    """The tensors of a torch file, mapped; nothing but tensors and plain containers is unpickled."""
    state = load_pickle(path)
    tops = [key for key in WRAPPERS if isinstance(state.get(key), dict)]
    if len(tops) == 1:
        state = state[tops[0]]
    return Contents({key: mapped(key, value, path) for key, value in state.items()})


def load_pickle(path: Path) -> dict[str, Any]:
    open_regular(path).close()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise Refused(
            f"{path}: more than tensors is pickled in it, which is not read; save it as safetensors."
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as problem:
        raise Refused(f"{path}: cannot be read: {first_line(problem)}; save it as safetensors.") from None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise Refused(f"{path}: holds a {type(state).__name__}, not tensors by name; save it as safetensors.")
    return state


def mapped(name: str, value: object, path: Path) -> Loaded:
    found = loaded(name, value, path.name, own=False)
    # a view can claim any size; what is behind it is what the file holds
    if found.info.nbytes > found.value.untyped_storage().nbytes():
        raise Refused(f"{path}: {name!r} claims {found.info.nbytes} bytes, more than are stored for it.")
    return found


##### What lies beside


def read_sidecars(main: Path) -> dict[str, dict[str, Any]]:
    """File name -> JSON of the files beside main that describe quantization."""
    names = (*SIDECARS, f"{main.stem}_qmap.json", f"{main.stem}_map.json")
    return {name: read_json(main.parent / name) for name in names if (main.parent / name).is_file()}


def read_json(path: Path) -> dict[str, Any]:
    with open_regular(path) as file:
        text = file.read(LARGEST_HEADER + 1)
    if len(text) > LARGEST_HEADER:
        raise Refused(f"{path}: more than {LARGEST_HEADER} bytes of JSON are not read.")
    try:
        return as_object(text)
    except Malformed as problem:
        raise Refused(f"{path}: {str(problem).replace('the header', 'the file')}; fetch it again.") from None


def read_scales(main: Path, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Scales from files of their own, if they are this model's: at least one names a weight of it."""
    scales = angelslim_scales(main.parent / SCALES) | hunyuan_scales(main.with_name(f"{main.stem}_map.pt"))
    weights = {name.removesuffix(".weight") for name in tensors if name.endswith(".weight")}
    if not any(module_of(name) in weights for name in scales):
        return {}
    return {name: scale for name, scale in scales.items() if not repeated(scale, tensors.get(name), main)}


def module_of(name: str) -> str:
    return name.removesuffix(".fp8_map_scale").removesuffix(".weight_scale")


def repeated(scale: Stored, known: Stored | None, main: Path) -> bool:
    """Whether the model itself has this very scale; refused if it has another one."""
    if known is None:
        return False
    same = known.info == scale.info and torch.equal(values(known).float(), values(scale).float())
    if not same:
        raise Refused(f"{main}: {scale.info.name!r} differs from the one in {scale.origin}; one of them is stale.")
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
    scales = load_pickle(path) if path.is_file() else {}
    named = {f"{module}.fp8_map_scale": as_tensor(value) for module, value in scales.items()}
    return {name: mapped(name, value, path) for name, value in named.items()}


def as_tensor(value: object) -> object:
    return torch.tensor(value, dtype=torch.float32) if isinstance(value, float | int) else value


__all__ = ["Source", "StateDictSource", "TensorInfo", "open_source"]
