"""Many checkpoints of a folder or glob converted into another folder, with one table of what became of each."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Refused, first_line
from ..files.sets import INDEX, named_by, stem_of
from ..files.sidecars import SCALES
from ..files.stored import STORES
from ..text import text_table
from .result import Conversion

COLUMNS = ("file", "result", "MB before", "MB after", "seconds", "what")
MAGIC = "*?["


@dataclass(frozen=True)
class Batch:
    """What became of each file: a Conversion, or the sentence that refuses it."""

    results: dict[str, Conversion | str]

    @property
    def refused(self) -> dict[str, str]:
        return {name: result for name, result in self.results.items() if isinstance(result, str)}

    def to_json(self) -> dict[str, Any]:
        done = {name: r.to_json() for name, r in self.results.items() if not isinstance(r, str)}
        return {"files": done, "refused": self.refused}

    def table(self) -> str:
        return text_table(COLUMNS, [cells(name, result) for name, result in self.results.items()])


def cells(name: str, result: Conversion | str) -> list[str]:
    if isinstance(result, str):
        return [name, "refused", "", "", "", result]
    sizes = [f"{size / 1e6:.1f}" for size in (result.bytes_before, result.bytes_after)]
    return [name, "converted", *sizes, f"{result.seconds:.1f}", result.summary()]


def is_batch(src: str, dst: str) -> bool:
    """Whether src names many checkpoints: a glob, a folder whose result is no file; a file goes into a folder too."""
    if dst.endswith((*STORES, INDEX)):
        return False
    pattern = any(c in src for c in MAGIC) and not os.path.exists(src)
    return pattern or os.path.isdir(src) or os.path.isdir(dst) or dst.endswith(os.sep)


def run_batch(src: str, dst: str, convert: Callable[[Path, Path], Conversion]) -> Batch:
    """Convert each checkpoint of src into the folder dst, which is made; a refused one does not stop the others."""
    paths, folder = checkpoints(src), Path(dst)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise Refused(f"{dst}: the folder cannot be made: {first_line(problem)}; name another.") from None
    try:
        return Batch({path.name: attempt(convert, path, folder) for path in paths})
    finally:
        if made:
            with suppress(OSError):  # only an empty one can be removed
                folder.rmdir()


def attempt(convert: Callable[[Path, Path], Conversion], path: Path, folder: Path) -> Conversion | str:
    try:
        return convert(path, folder / f"{stem_of(path)}.safetensors")
    except Refused as refusal:
        return str(refusal)


def checkpoints(src: str) -> list[Path]:
    """The checkpoints of a folder or glob: files, and indices instead of the shards that they name."""
    path = Path(src)
    found = (
        sorted(path.iterdir()) if path.is_dir() else sorted(map(Path, glob.glob(src))) if not path.exists() else [path]
    )
    files = [p for p in found if p.name.endswith((*STORES, INDEX)) and p.name != SCALES and not p.name.startswith(".")]
    shards = {shard for p in files if p.name.endswith(INDEX) for shard in named_by(p)}
    left = [p for p in files if p not in shards]
    if not left:
        raise Refused(f"{src}: no .safetensors file or index.json is there; name a folder or glob that has some.")
    check_names(left)
    return left


def check_names(paths: list[Path]) -> None:
    stems = [stem_of(path) for path in paths]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise Refused(f"{twice}.safetensors: two of the files would become this one; convert them one by one.")
