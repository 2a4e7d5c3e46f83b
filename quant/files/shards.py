"""Several files as one checkpoint: an index and its shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import Refused
from .reader import read_safetensors
from .sidecars import read_json
from .stored import STORES, Contents, Stored


def read_shards(index: Path) -> Contents:
    """The tensors of all shards that an index.json lists."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise Refused("this JSON has no weight_map of file names; give the *.safetensors.index.json.", file=index)
    shards = {name: read_safetensors(shard_path(index, name)) for name in sorted(set(weight_map.values()))}
    for key, name in weight_map.items():
        if key not in shards[name].tensors:
            raise Refused(f"{key!r} should be in {name} but is not there; fetch both again.", file=index)
    return Contents(merged(shards, index), merge_metadata([shard.metadata for shard in shards.values()]))


def shard_path(index: Path, name: str) -> Path:
    """Where a shard that an index names lies; refused where that is not beside it."""
    if Path(name).name != name or not name.endswith(STORES):
        raise Refused(
            f"the shard {name!r} is not the name of a safetensors file beside it; fetch it again.", file=index
        )
    if not (index.parent / name).exists():
        raise Refused(f"the shard {name} is missing; fetch it into the same folder.", file=index)
    return index.parent / name


def merged(shards: Mapping[str, Contents], index: Path) -> dict[str, Stored]:
    """The tensors of all shards by name; refused where two have one of the same name."""
    tensors: dict[str, Stored] = {}
    for name, shard in shards.items():
        twice = next((key for key in shard.tensors if key in tensors), None)
        if twice is not None:
            raise Refused(f"{twice!r} is in both {tensors[twice].origin} and {name}; remove the stale one.", file=index)
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
