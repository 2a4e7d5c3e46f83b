"""Many checkpoints of folders, globs and URLs converted into another folder, with one table of what became of each."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import Refused, first_line
from ..files.locks import only_job
from ..files.remote import beside, is_folder, is_url, listed, name_of, shards_at, sweep
from ..files.sets import INDEX, stem_of
from ..files.sidecars import SCALES
from ..files.stored import STORES
from ..text import text_table
from .converter import Bar, ConversionPlan, Options, plan
from .decisions import check_format
from .engines import ENGINES, Engine
from .jobs import FileJob, Outcome, Work, convert_address, job_of
from .manifest import Entry, Manifest, stamps_of
from .ranges import assembled, staging
from .request import Request
from .result import Conversion

COLUMNS = ("file", "result", "MB before", "MB after", "seconds", "what")
MAGIC = "*?["


@dataclass(frozen=True)
class Batch:
    """What became of each file, by name; conversions: of those that were done now, not by an earlier run."""

    entries: dict[str, Entry]
    conversions: dict[str, Conversion] = field(default_factory=dict)

    def said(self, state: str) -> dict[str, str]:
        """Name -> sentence of the files in a state."""
        return {name: entry.said for name, entry in self.entries.items() if entry.state == state}

    def sentence(self) -> str:
        """How many were refused and failed, "" for none."""
        counts = {state: len(self.said(state)) for state in ("refused", "failed")}
        count_of_each = " and ".join(f"{count} {state}" for state, count in counts.items() if count)
        return f"Of {len(self.entries)} files {count_of_each}; the table says why." if count_of_each else ""

    def to_json(self) -> dict[str, Any]:
        done = {name: asdict(entry) for name, entry in self.entries.items() if entry.state == "done"}
        done |= {name: conversion.to_json() for name, conversion in self.conversions.items()}
        return {"files": done, "refused": self.said("refused"), "failed": self.said("failed")}

    def table(self) -> str:
        return text_table(COLUMNS, [self.cells(name, entry) for name, entry in self.entries.items()])

    def cells(self, name: str, entry: Entry) -> list[str]:
        if entry.state != "done":
            return [name, entry.state, "", "", "", entry.said]
        sizes = [f"{size / 1e6:.1f}" for size in (entry.bytes_before, entry.bytes_after)]
        result = "converted" if name in self.conversions else "done before"
        return [name, result, *sizes, f"{entry.seconds:.1f}", entry.said]


def run_batch(sources: Sequence[str], dst: str, work: Work, engine: str = "local", address: str | None = None) -> Batch:
    """Convert each checkpoint of the sources into the folder dst, which is made; one stops no other.

    What the manifest there says was done of the same file with the same options is not done again. Refused where
    another job writes there, or one with other options did.
    """
    check_format(work.request)
    paths = [path for src in sources for path in checkpoints(src)]
    check_names(paths)
    with made(dst), only_job(dst) as check:
        sweep(dst)
        manifest = Manifest(dst, described(work))
        before = {path: manifest.done(name_of(path), stamps_of(path)) for path in paths}
        jobs = [job_of(path, result_of(path, dst)) for path in paths if not before[path]]
        conversions = {}
        for job, outcome in run_jobs(jobs, replace(work, options=replace(work.options, named=False)), engine, address):
            check()
            manifest.put(job.name, outcome.entry)
            if outcome.conversion:
                conversions[job.name] = outcome.conversion
        return Batch({name_of(path): manifest.entries[name_of(path)] for path in paths}, conversions)


def run_one(src: str, dst: str, work: Work, engine: str = "local", address: str | None = None) -> Conversion:
    """Convert one file to a file, or into a folder, which is made; raised is what stops it."""
    if is_into_folder(dst):
        unnamed = replace(work, options=replace(work.options, named=False))
        with made(dst):
            return run_one(src, result_of(src, dst), unnamed, engine, address)
    if engine == "local" and not address:
        return convert_address(src, dst, work.request, work.options)
    if not (is_url(src) or is_url(dst)):
        found = plan(src, Path(dst), work.request, work.options)
        if len(found.shards) > 1:
            return run_shards(found, job_of(src, dst), work, engine, address)
    (_, outcome), *_ = run_jobs([job_of(src, dst)], work, engine, address)
    return done(outcome)


def run_shards(found: ConversionPlan, job: FileJob, work: Work, engine: str, address: str | None) -> Conversion:
    """Convert one checkpoint, a shard a task; what was finished before a job was stopped is not done again."""
    start, dst = time.perf_counter(), Path(job.dst)
    with staging(found, dst, described(work)) as staged:
        size = job.size // len(staged)
        jobs = [replace(job, name=f"{dst.name}: {path.stem}", staged=str(path), size=size) for path in staged]
        parts = [done(outcome) for _, outcome in run_jobs(jobs, work, engine, address)]
        return assembled(found, staged, dst, parts, time.perf_counter() - start)


def done(outcome: Outcome) -> Conversion:
    """What was done; raised is why it was not."""
    if outcome.conversion is None:
        raise (Refused if outcome.entry.state == "refused" else Failed)(outcome.entry.said)
    return outcome.conversion


class Failed(Exception):
    """What an engine could not do."""


def run_jobs(
    jobs: Sequence[FileJob], work: Work, engine: str, address: str | None = None
) -> Iterator[tuple[FileJob, Outcome]]:
    """Each job with what became of it, and one bar for all."""
    run: Engine = ENGINES[engine]
    with work.options.bar(sum(job.size for job in jobs)) as bar:
        progress = BatchBar(bar, {job.name: job.size for job in jobs})
        for job, outcome in run(jobs, replace(work, options=replace(work.options, bar=Options.bar)), progress, address):
            progress(job.name, job.size)
            yield job, outcome


class BatchBar:
    """Moves one bar by what each file tells of itself; one that is tried again starts again."""

    def __init__(self, bar: Bar, sizes: dict[str, int]) -> None:
        self.bar, self.sizes, self.done = bar, sizes, dict.fromkeys(sizes, 0)

    def __call__(self, name: str, done: int) -> None:
        now = min(done, self.sizes[name])
        self.bar.update(now - self.done[name])
        self.done[name] = now


def described(work: Work) -> dict[str, Any]:
    """What of the options makes another result."""
    request: Request = work.request
    return {**asdict(request), "shard_size": work.options.shard_size}


@contextmanager
def made(folder: str) -> Iterator[None]:
    """The folder that is converted into, made; gone again where nothing was converted and it was not there."""
    if is_url(folder):
        yield
        return
    path = Path(folder)
    new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise Refused(f"{folder}: the folder cannot be made: {first_line(problem)}; name another.") from None
    try:
        yield
    finally:
        if new and not any(path.iterdir()):
            path.rmdir()


##### Which files


def is_batch(sources: Sequence[str], dst: str) -> bool:
    """Whether many checkpoints are named: several, a glob, or a folder whose result is no file."""
    to_file = dst.endswith((*STORES, INDEX))
    if len(sources) > 1 and to_file:
        raise Refused(f"{dst}: is one file for {len(sources)} sources; name a folder for their results.")
    return not to_file and (len(sources) > 1 or is_many(sources[0]))


def is_many(src: str) -> bool:
    if is_url(src):
        return any(c in src for c in MAGIC) or is_folder(src)
    return os.path.isdir(src) or any(c in src for c in MAGIC) and not os.path.exists(src)


def is_into_folder(dst: str) -> bool:
    """Whether the result of one file goes into a folder, under its name."""
    return dst.endswith(("/", os.sep)) or (is_folder(dst) if is_url(dst) else os.path.isdir(dst))


def result_of(src: str, dst: str) -> str:
    """Where in a folder the result of a file goes."""
    return beside(dst, f"{stem_of(Path(name_of(src)))}.safetensors")


def checkpoints(src: str) -> list[str]:
    """What is to be converted of a folder, a glob or a URL: files, and indices instead of their shards."""
    found = [path for path in files_in(src) if is_checkpoint(name_of(path))]
    shards = {shard for path in found if path.endswith(INDEX) for shard in map(name_of, shards_at(path))}
    left = [path for path in found if name_of(path) not in shards]
    if not left:
        raise Refused(f"{src}: no .safetensors file or index.json is there; name a folder or glob that has some.")
    return left


def files_in(src: str) -> list[str]:
    if is_url(src):
        return listed(src)
    path = Path(src)
    if path.is_dir():
        return sorted(map(str, path.iterdir()))
    return [src] if path.exists() else sorted(glob.glob(src))


def is_checkpoint(name: str) -> bool:
    return name.endswith((*STORES, INDEX)) and name != SCALES and not name.startswith(".")


def check_names(paths: Sequence[str]) -> None:
    stems = [stem_of(Path(name_of(path))) for path in paths]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise Refused(f"{twice}.safetensors: two of the files would become this one; convert them one by one.")
