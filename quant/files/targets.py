"""Where a checkpoint is written: one file, or shards and their index under names that are free."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .atomic import Places
from .sets import INDEX, MARK, is_marked, is_ours, own_shards, plan_of, stem_of
from .stored import STORES
from .writer import Layout


@dataclass(frozen=True)
class Target:
    """The files of a result, the one that names the others last, and where they go in the end."""

    layouts: dict[Path, Layout]
    places: Places

    @property
    def paths(self) -> list[Path]:
        return self.places.paths


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


def whole_files(index: Path) -> list[Path]:
    """The files of an index's name that hold a model in one."""
    return [path for end in STORES if (path := index.with_name(stem_of(index) + end)).is_file()]


def index_layout(index: Path, layouts: Mapping[Path, Layout]) -> Layout:
    """The index.json as a file of its own without tensors."""
    where = {name: path.name for path, shard in layouts.items() for name in shard.places}
    total = sum(info.nbytes for shard in layouts.values() for info, _ in shard.places.values())
    content = {"metadata": {"total_size": total, MARK: stem_of(index)}, "weight_map": dict(sorted(where.items()))}
    text = json.dumps(content, indent=2, ensure_ascii=False).encode()
    return Layout(text, {}, len(text))


def overwrite(file: BinaryIO, text: bytes) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    os.fsync(file.fileno())
