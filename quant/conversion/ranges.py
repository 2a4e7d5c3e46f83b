"""One checkpoint converted into shards by several workers, which take their places together in the end."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ..errors import NoRoom, Refused
from ..files.atomic import adopt, failure
from ..files.locks import only_job
from ..files.temporaries import remove
from ..files.writer import Layout, writing
from .converter import ConversionPlan, Options, plan, read_back, rows_of, run
from .ownership import check_ownership
from .request import Request
from .result import Conversion

PARTS = ".scaled-fp8-{}.parts"  # the folder of finished shards, beside their places


def convert_shard(src: str, staged: Path, dst: Path, request: Request, options: Options) -> Conversion:
    """Write the shard that a staged file's name counts, unless it is there; Refused as convert is."""
    start, found = time.perf_counter(), plan(src, dst, request, options)
    index = int(staged.stem)
    tasks, layout = found.shards[index], found.layouts[index]
    checked = 0
    if not is_whole(staged, layout):
        with writing({staged: layout}) as output:
            run(tasks, output, options, sum(info.nbytes for task in tasks for info in task.infos))
            checked = read_back(tasks, output, options, dst)
    return Conversion(
        source=found.ckpt.source.name,
        files=(str(staged),),
        verdict=found.ckpt.verdict.told(),
        parts=found.parts,
        rows=rows_of(found.ckpt, tasks),
        bytes_before=0,
        bytes_after=layout.size,
        checked=checked,
        seconds=time.perf_counter() - start,
    )


def is_whole(staged: Path, layout: Layout) -> bool:
    """Whether a shard was finished before: it appeared whole, and its header is the one that is wanted."""
    if not staged.is_file() or staged.stat().st_size != layout.size:
        return False
    with open(staged, "rb") as file:
        return file.read(len(layout.header)) == layout.header


##### Together


@contextmanager
def staging(found: ConversionPlan, dst: Path, asked: dict[str, object]) -> Iterator[list[Path]]:
    """Where the shards go until all are there: a folder of this source and these options, kept until it is done."""
    source = found.ckpt.source
    stamps = sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files)
    key = hashlib.sha256(json.dumps([dst.name, stamps, asked], default=str, sort_keys=True).encode()).hexdigest()[:16]
    check_ownership(source, dst, found.target)
    folder = dst.parent / PARTS.format(key)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as problem:
        raise failure(dst, problem) from None
    shards = [folder / f"{index:05}.safetensors" for index in range(len(found.shards))]
    with only_job(str(folder)):
        try:
            yield shards
        except NoRoom:
            raise
        except Refused:
            # not for want of room or workers: it will be refused again
            remove(shards)
            raise
    with suppress(OSError):  # where shards are left
        folder.rmdir()


def assembled(
    found: ConversionPlan, staged: Sequence[Path], dst: Path, done: Sequence[Conversion], seconds: float
) -> Conversion:
    """The shards in their places, and what was done in all."""
    for path, layout in zip(staged, found.layouts, strict=True):
        if not is_whole(path, layout):
            raise Refused(f"{dst}: {path.name} is not as it was written; start again.")
    try:
        adopt(found.target.places, staged, list(found.target.layouts.values())[-1].header)
    except OSError as problem:
        raise failure(dst, problem) from None
    rows = {row.name: row for one in done for row in one.rows}
    order = [task.name for shard in found.shards for task in shard]
    return replace(
        done[0],
        files=tuple(map(str, found.target.paths)),
        rows=tuple(rows[name] for name in order),
        bytes_before=found.ckpt.source.total_bytes,
        bytes_after=sum(layout.size for layout in found.target.layouts.values()),
        checked=sum(one.checked for one in done),
        seconds=seconds,
    )
