"""Shards and their index: which belong together, and which this package wrote itself, so that it may delete them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import Refused
from .reader import Stamp, read_safetensors, stamped
from .sidecars import read_json, sidecars_of
from .stored import STORES

INDEX = ".index.json"
# in the metadata of what is written here under names that nobody gave: the checkpoint's name, without its ending
MARK = "scaled_fp8_result"


def content_of(index: Path) -> dict[str, Any]:
    """An index as JSON; empty where there is none that can be read."""
    with suppress(Refused, OSError, ValueError):
        return read_json(index)
    return {}


def named_by(index: Path) -> set[Path]:
    """The files that an index names beside it; none where it is no index that can be read."""
    weight_map = content_of(index).get("weight_map")
    names = set(filter(is_name, weight_map.values())) if isinstance(weight_map, dict) else set()
    return {index.with_name(name) for name in names}


def is_name(name: object) -> bool:
    """Whether this is what a safetensors file beside an index can be called."""
    return isinstance(name, str) and name.endswith(STORES) and Path(name).name == name and "\0" not in name


def indices_naming(files: Iterable[Path]) -> set[Path]:
    """The indices beside these files that name one of them."""
    paths = set(files)
    beside = {index for folder in {path.parent for path in paths} for index in folder.glob(f"*{INDEX}")}
    return {index for index in beside if named_by(index) & paths}


def files_of(main: Path) -> list[Path]:
    """A checkpoint's own files: itself, its shards, what lies beside and belongs to it."""
    return sorted({main, *sidecars_of(main), *(named_by(main) if main.name.endswith(".json") else ())})


def stamps_of(main: Path) -> tuple[tuple[str, Stamp], ...]:
    """What tells whether any file of a checkpoint was changed or exchanged."""
    return tuple((path.name, stamped(path.stat())) for path in files_of(main) if path.is_file())


def is_ours(index: Path) -> bool:
    """Whether this package wrote an index, under this name."""
    metadata = content_of(index).get("metadata")
    return isinstance(metadata, dict) and metadata.get(MARK) == stem_of(index)


def is_marked(path: Path, stem: str) -> bool:
    """Whether a safetensors file was written here for the checkpoint of this name."""
    with suppress(Refused, OSError):
        return not path.is_symlink() and read_safetensors(path).metadata.get(MARK) == stem
    return False


def own_shards(index: Path) -> set[Path]:
    """The shards that an index of ours names and that were written for it."""
    return {path for path in named_by(index) if is_shard_of(index, path)} if is_ours(index) else set()


def is_shard_of(index: Path, path: Path) -> bool:
    """Whether a file was written here as a shard of this index, by its name and the mark in its header."""
    pattern = re.escape(stem_of(index)) + r"(-v\d{1,6})?-\d{5,7}-of-\d{5,7}\.safetensors"
    return bool(re.fullmatch(pattern, path.name)) and is_marked(path, stem_of(index))


def stem_of(path: Path) -> str:
    """A checkpoint's name without what says how it is stored."""
    name = path.name.removesuffix(INDEX)
    return next((name.removesuffix(end) for end in STORES if name.endswith(end)), name)


##### What a run is about to change, and what is left of that when it was killed


def plan_of(index: Path, shards: Iterable[Path]) -> bytes:
    """Shards of ours that are unneeded unless the index names them when all is done."""
    return json.dumps({"index": index.name, "shards": sorted(path.name for path in shards)}).encode()


def carry_out(folder: Path, plan: bytes) -> None:
    """Delete shards that a run, killed or done, left unneeded: not named by its index, and marked as ours."""
    with suppress(ValueError, LookupError, TypeError, RecursionError, OSError):
        value = json.loads(plan)
        index = folder / str(value["index"])
        if index.name != value["index"] or not index.name.endswith(INDEX):
            return
        shards = {folder / name for name in value["shards"] if is_name(name)}
        for path in shards - named_by(index):
            if is_shard_of(index, path):
                path.unlink(missing_ok=True)
