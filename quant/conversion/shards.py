"""Where a conversion is written: one file, or shards of bounded size with an index."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import Refused
from ..files.atomic import Places
from ..files.header import TensorInfo
from ..files.sets import INDEX, MARK, is_marked, is_ours, own_shards, plan_of, stem_of
from ..files.stored import STORES
from ..files.writer import Layout, lay_out
from .tasks import Task

USUAL = 5 * 10**9  # shards' size for a target that is an index
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}
DIGITS = 18  # of a size: more bytes no disk has
MOST = 99_999  # shards


@dataclass(frozen=True)
class Target:
    """The files of a result, the one that names the others last, and where they go in the end."""

    layouts: dict[Path, Layout]
    places: Places

    @property
    def paths(self) -> list[Path]:
        return self.places.paths


def target_of(
    dst: Path, tasks: Sequence[Task], size: int | None, metadata: Mapping[str, str], marked: bool = False
) -> Target:
    """The files that the tasks' tensors are written to; marked: as ours, though they are one file of dst's name."""
    size = size or (USUAL if dst.name.endswith(INDEX) else None)
    groups = split(tasks, size) if size else [list(tasks)]
    metadata = {**metadata, MARK: stem_of(dst)} if size or marked else metadata
    if len(groups) == 1:
        path = one_file(dst)
        return Target({path: layout(groups[0], metadata)}, OneFile([path]))
    if len(groups) > MOST:
        raise Refused(f"{dst}: would be {len(groups)} shards, more than {MOST}; ask for larger ones.")
    index = index_of(dst)
    layouts = dict(zip(free_names(index, len(groups)), (layout(group, metadata) for group in groups), strict=True))
    return Target({**layouts, index: index_layout(index, layouts)}, Set(index, layouts))


def one_file(dst: Path) -> Path:
    """Where a checkpoint goes that needs no shards."""
    return dst.with_name(f"{stem_of(dst)}.safetensors") if dst.name.endswith(INDEX) else dst


def index_of(dst: Path) -> Path:
    """The index beside a checkpoint of this name."""
    return dst.with_name(f"{stem_of(dst)}.safetensors{INDEX}")


def free_names(index: Path, count: int) -> list[Path]:
    """Names for new shards that no file has: those of the model that is there stay until the new one is whole."""
    for turn in itertools.count(1):
        stem = stem_of(index) + (f"-v{turn}" if turn > 1 else "")
        names = [index.with_name(f"{stem}-{i:05}-of-{count:05}.safetensors") for i in range(1, count + 1)]
        if not any(map(os.path.lexists, names)):
            return names
    raise AssertionError


class OneFile(Places):
    """A result in one file: shards of a former one under its name, and their index, go."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(paths)
        self.index = index_of(self.paths[0])

    def plan(self) -> bytes:
        shards = own_shards(self.index)
        return plan_of(self.index, shards) if shards else b""

    def replaced(self) -> Iterable[Path]:
        return [self.index] if is_ours(self.index) else []


class Set(Places):
    """Shards and their index, which is written anew where another run took the names meanwhile."""

    def __init__(self, index: Path, shards: Mapping[Path, Layout]) -> None:
        super().__init__([*shards, index])
        self.index, self.layouts = index, list(shards.values())

    @property
    def shards(self) -> list[Path]:
        return self.paths[:-1]

    def settle(self, files: Sequence[BinaryIO]) -> None:
        names = free_names(self.index, len(self.layouts))
        if names != self.shards:
            self.paths = [*names, self.index]
            overwrite(files[-1], index_layout(self.index, dict(zip(names, self.layouts, strict=True))).header)

    def plan(self) -> bytes:
        return plan_of(self.index, {*self.shards, *own_shards(self.index)})

    def replaced(self) -> Iterable[Path]:
        return [path for path in whole_files(self.index) if is_marked(path, stem_of(self.index))]


def whole_files(index: Path) -> list[Path]:
    """The files of an index's name that hold a model in one."""
    return [path for end in STORES if (path := index.with_name(stem_of(index) + end)).is_file()]


def overwrite(file: BinaryIO, text: bytes) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    os.fsync(file.fileno())


def split(tasks: Iterable[Task], size: int) -> list[list[Task]]:
    """Tasks in shards of at most size bytes, each layer's tensors together."""
    groups: list[list[Task]] = [[]]
    filled = 0
    for task in tasks:
        count = sum(info.nbytes for info in task.infos)
        if groups[-1] and filled + count > size:
            groups.append([])
            filled = 0
        groups[-1].append(task)
        filled += count
    return groups


def layout(tasks: Iterable[Task], metadata: Mapping[str, str]) -> Layout:
    """One file, with ComfyUI's description of its quantized layers."""
    infos: list[TensorInfo] = []
    markers: dict[str, object] = {}
    for task in tasks:
        infos += task.infos
        if task.marker:
            markers[task.name.removesuffix("weight").removesuffix(".")] = task.marker
    described = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": markers})} if markers else {}
    return lay_out(infos, {**metadata, **described})


def index_layout(index: Path, layouts: Mapping[Path, Layout]) -> Layout:
    """The index.json as a file of its own without tensors."""
    where = {name: path.name for path, shard in layouts.items() for name in shard.places}
    total = sum(info.nbytes for shard in layouts.values() for info, _ in shard.places.values())
    content = {"metadata": {"total_size": total, MARK: stem_of(index)}, "weight_map": dict(sorted(where.items()))}
    text = json.dumps(content, indent=2, ensure_ascii=False).encode()
    return Layout(text, {}, len(text))


def size_of(text: str) -> int:
    """Bytes that "5GB", "500 MB" or "1GiB" say."""
    found = re.fullmatch(rf"\s*(\d{{1,{DIGITS}}}(?:\.\d{{1,{DIGITS}}})?)\s*([KMG]?I?)B?\s*", text.upper(), re.ASCII)
    size = int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if not size:
        raise Refused(f"shard_size {text[:40]!r} is no size; say for example 5GB or 500MB.")
    return size
