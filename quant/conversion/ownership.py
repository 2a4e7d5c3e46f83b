"""What a conversion may replace: what its target names and nothing else, above all no file of another model."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..errors import Refused, first_line
from ..files.reader import read_safetensors
from ..files.sets import INDEX, content_of, indices_naming, is_marked, is_ours, named_by, own_shards, stem_of
from ..files.sidecars import SCALES
from ..files.stored import STORES, Source
from ..files.targets import Target, index_of, whole_files

AWAY = "give another name, or another folder"


def check_ownership(source: Source, dst: Path, target: Target, named: bool = True) -> None:
    """Refused where a conversion would replace a file of its source, or of a model that dst does not name.

    named: whether the user named dst itself, so that a checkpoint there is meant to be replaced.
    """
    try:
        for path in target.paths:
            with suppress(FileNotFoundError):
                path.lstat()
        check_source(source, changed(target))
        check_others(dst, target, named)
    except (OSError, ValueError) as problem:
        raise Refused(f"{str(dst)[:200]}: cannot be written: {first_line(problem)}; {AWAY}.") from None


def check_name(dst: Path) -> None:
    """Refused unless readers take a file of this name for a checkpoint."""
    if dst.name == SCALES:
        raise Refused(f"{dst}: files of this name are read as scales of the model beside them; {AWAY}.")
    if not dst.name.endswith((*STORES, INDEX)):
        raise Refused(f"{str(dst)[:200]}: no reader takes a file of this name for a checkpoint; "
                      f"give another name, one that ends in .safetensors or {INDEX}.")  # fmt: skip


def changed(target: Target) -> set[Path]:
    """Every file that will be written, replaced or deleted."""
    index = index_of(target.paths[-1])
    return {*target.paths, *own_shards(index), index, *target.places.replaced()}


def check_source(source: Source, files: Iterable[Path]) -> None:
    own = belongings(source)
    for path in files:
        if any(is_same(path, file) for file in own):
            raise Refused(f"{path}: is a file of what is converted; {AWAY}.")


def is_same(path: Path, other: Path) -> bool:
    """Whether both are there and one file; another run may delete a shard of its own at any time."""
    with suppress(FileNotFoundError):
        return path.samefile(other)
    return False


def belongings(source: Source) -> set[Path]:
    """The source's files; of a shard that was given alone, the other shards and their index too."""
    indices = indices_naming(source.files)
    return source.files.union(indices, *map(named_by, indices))


def check_others(dst: Path, target: Target, named: bool) -> None:
    """Refused where a conversion's result would hide another model, or be a shard of one."""
    last = target.paths[-1]
    index = index_of(last)
    if content_of(index).get("weight_map") and not is_ours(index):
        raise Refused(f"{index}: is the index of another model, which this one would hide; {AWAY}.")
    for other in indices_naming([last]):
        raise Refused(f"{last}: is a shard of {other.name}; {AWAY}.")
    rivals = whole_files(index) if last == index else [last] if last != dst or not named else []
    for rival in rivals:
        if is_checkpoint(rival) and not is_marked(rival, stem_of(index)):
            raise Refused(f"{rival}: another model is there that was not named; remove it, or {AWAY}.")


def is_checkpoint(path: Path) -> bool:
    with suppress(Refused, OSError):
        return bool(read_safetensors(path).tensors)
    return False
