"""Where a conversion is written: one file, or shards of bounded size with an index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import Refused
from ..files.header import TensorInfo
from ..files.stored import STORES
from ..files.writer import Layout, lay_out
from .tasks import Task

INDEX = ".index.json"
USUAL = 5 * 10**9  # shards' size for a target that is an index
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}


@dataclass(frozen=True)
class Target:
    """The files of a result, the one that names the others last. old: shards of a former result in their place."""

    layouts: dict[Path, Layout]
    old: tuple[Path, ...] = ()

    @property
    def paths(self) -> list[Path]:
        return list(self.layouts)

    def remove_old(self) -> None:
        """Shards that only the former index named."""
        for path in set(self.old) - set(self.layouts):
            with suppress(OSError):
                path.unlink()


def target_of(dst: Path, tasks: Sequence[Task], size: int | None, metadata: Mapping[str, str]) -> Target:
    """The files that the tasks' tensors are written to."""
    indexed = dst.name.endswith(INDEX)
    size = size or (USUAL if indexed else None)
    groups = split(tasks, size) if size else [list(tasks)]
    stem = stem_of(dst)
    if len(groups) == 1:
        path = dst.with_name(f"{stem}.safetensors") if indexed else dst
        return Target({path: layout(groups[0], metadata)})
    names = [f"{stem}-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)]
    index = dst.with_name(f"{stem}.safetensors{INDEX}")
    layouts = {dst.with_name(n): layout(g, metadata) for n, g in zip(names, groups, strict=True)}
    return Target({**layouts, index: index_layout(layouts)}, old_shards(index))


def stem_of(dst: Path) -> str:
    name = dst.name.removesuffix(INDEX)
    return next((name.removesuffix(end) for end in STORES if name.endswith(end)), name)


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


def index_layout(layouts: Mapping[Path, Layout]) -> Layout:
    """The index.json as a file of its own without tensors."""
    where = {name: path.name for path, shard in layouts.items() for name in shard.places}
    total = sum(info.nbytes for shard in layouts.values() for info, _ in shard.places.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    text = json.dumps(index, indent=2, ensure_ascii=False).encode()
    return Layout(text, {}, len(text))


def old_shards(index: Path) -> tuple[Path, ...]:
    """Shards that an index in the target's place names, if they are called after it."""
    pattern = re.compile(re.escape(stem_of(index)) + r"-\d{5}-of-\d{5}\.safetensors")
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return tuple(index.with_name(name) for name in names if pattern.fullmatch(name))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ()


def size_of(text: str) -> int:
    """Bytes that "5GB", "500 MB" or "1GiB" say."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?)B?\s*", text.upper())
    if not found or found[2] not in UNITS or float(found[1]) == 0:
        raise Refused(f"shard size {text!r} is no size; say for example 5GB or 500MB.")
    return int(float(found[1]) * UNITS[found[2]])
