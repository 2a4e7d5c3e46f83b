"""How a conversion's tensors are shared out: to one file, or to shards of bounded size with an index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import Refused
from ..files.header import TensorInfo
from ..files.sets import INDEX, MARK, stem_of
from ..files.targets import OneFile, Set, Target, free_names, index_layout, index_of, one_file
from ..files.writer import Layout, lay_out
from ..names import COMFYUI
from .tasks import Task

USUAL = 5 * 10**9  # shards' size for a target that is an index
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}
DIGITS = 18  # of a size: more bytes no disk has
MOST = 99_999  # shards


def target_of(
    dst: Path, tasks: Sequence[Task], size: int | None, metadata: Mapping[str, str], marked: bool = False
) -> Target:
    """The files that a conversion's tasks write; marked: as ours, though they are one file of dst's name."""
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


def split(tasks: Iterable[Task], size: int) -> list[list[Task]]:
    """A conversion's tasks by the shard that they write, each of at most size bytes and of whole layers."""
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
    """One file of what tasks will write, with ComfyUI's description of its quantized layers."""
    infos: list[TensorInfo] = []
    markers: dict[str, object] = {}
    for task in tasks:
        infos += task.infos
        if task.marker:
            markers[task.name.removesuffix("weight").removesuffix(".")] = task.marker
    return lay_out(infos, {**metadata, **described(markers)})


def described(markers: Mapping[str, object]) -> dict[str, str]:
    """ComfyUI's description of quantized layers, beside the marker that each layer has.

    Not of layers with a prefix that its loader of diffusion models strips: it looks for the described ones after that
    too, and tells the user of as many unexpected tensors.
    """
    if not markers or any(name.startswith(COMFYUI) for name in markers):
        return {}
    return {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": markers})}


def size_of(text: str) -> int:
    """Bytes that "5GB", "500 MB" or "1GiB" say."""
    found = re.fullmatch(rf"\s*(\d{{1,{DIGITS}}}(?:\.\d{{1,{DIGITS}}})?)\s*([KMG]?I?)B?\s*", text.upper(), re.ASCII)
    size = int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if not size:
        raise Refused(f"shard_size {text[:40]!r} is no size; say for example 5GB or 500MB.")
    return size
