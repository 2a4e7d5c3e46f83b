"""Conversions killed with -9: what was there before is there, or the new model in its place; no other file changes.

``python -m benchmarks.kills [--count 200] [--at time|call] [--kind shards] [--first 0]``: at random moments, or before
a random one of the calls that write, name or move files; count of each kind. Each run is drawn from its number, so that
what was cut short goes on with --first. Exits 1 at the first loss.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from scaled_fp8.quant import open_source
from scaled_fp8.quant.conversion.batch import run_batch
from scaled_fp8.quant.conversion.converter import Options, convert
from scaled_fp8.quant.conversion.jobs import Work
from scaled_fp8.quant.conversion.request import Request
from scaled_fp8.quant.conversion.result import Conversion
from scaled_fp8.quant.files.sets import named_by

CALLS = ("open", "pwrite", "fsync", "link", "replace", "unlink")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MOST = 64  # of such calls that a run makes
ENDED = "ended before the kill"
# kind of run -> what it writes
TARGETS = {
    "nameless": ("out.safetensors",),
    "named": ("out.safetensors",),
    "shards": ("out.safetensors.index.json",),
    # each file of a folder into another one
    "folder": ("one.safetensors", "two.safetensors"),
    # the source is a set of shards of an earlier run, in the folder of the target
    "beside": ("out.safetensors.index.json",),
}
KINDS = tuple(TARGETS)
SOURCES = ("a.safetensors", "b.safetensors")
SERVER = multiprocessing.get_context("forkserver")
Model = dict[str, bytes]
Models = tuple[Model | None, ...]


def model(path: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers = {f"blocks.{i}.q.weight": (torch.randn(256, 256, generator=generator) * 0.02).bfloat16() for i in range(6)}
    save_file(layers, path, {"format": "pt"})


def work(folder: Path, kind: str, source: str) -> None:
    if kind == "named" and hasattr(os, "O_TMPFILE"):
        del os.O_TMPFILE
    if kind == "folder":
        asked = Work(Request("float8_e4m3fn"), Options(2))
        if run_batch([str(folder / Path(source).stem)], str(folder / kind), asked).sentence():
            raise SystemExit(1)
    else:
        converted(source_of(folder, kind, source), folder / kind / TARGETS[kind][0])


def converted(source: Path, target: Path) -> Conversion:
    size = 150_000 if target.name.endswith(".json") else None
    return convert(source, target, "float8_e4m3fn", Options(2, shard_size=size))


def sources(folder: Path) -> None:
    """Two models, and a folder of two for each."""
    for seed, name in enumerate(SOURCES):
        model(folder / name, seed)
        (folder / Path(name).stem).mkdir()
        for number, target in enumerate(TARGETS["folder"], 1):
            model(folder / Path(name).stem / target, seed + 10 * number)


def source_of(folder: Path, kind: str, source: str) -> Path:
    stem = source.removesuffix(".safetensors")
    return folder / kind / f"{stem}.safetensors.index.json" if kind == "beside" else folder / source


def sources_beside(folder: Path) -> Model:
    """Both sources as shards in the folder of the targets."""
    (folder / "beside").mkdir()
    for name in SOURCES:
        convert(folder / name, folder / "beside" / f"{name}.index.json", "bfloat16", Options(shard_size=300_000))
    return files(folder / "beside")


def models_in(folder: Path, kind: str) -> Models:
    return tuple(model_in(folder / name) for name in TARGETS[kind])


def model_in(target: Path) -> Model | None:
    """Tensor name -> bytes of a target as a reader finds it, None where there is none."""
    if not target.exists():
        return None
    return {name: raw(source.tensor(name)) for source in [open_source(target)] for name in source}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def started(run: Callable[..., None], *arguments: object) -> ForkServerProcess:
    """A child that runs it, forked from a process that has imported everything and computed nothing.

    A copy of this one would wait for ever in its first parallel loop: OpenMP's threads do not survive a fork.
    """
    child = SERVER.Process(target=run, args=arguments)
    child.start()
    return child


def kill_at_call(count: int) -> None:
    """Make this process kill itself at its count-th call of CALLS; those that open a file to read do not count."""
    left, opened = iter(range(count)), os.open

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def counting(*args: Any, **kwargs: Any) -> object:
            reads = call is opened and not args[1] & WRITES
            if not reads and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counting

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def complete(folder: Path, kind: str, source: str) -> tuple[Models, float]:
    """The targets that a conversion leaves which nobody kills, and how long it takes."""
    (folder / kind).mkdir(exist_ok=True)
    start = time.perf_counter()
    child = started(work, folder, kind, source)
    child.join()
    if child.exitcode:
        raise SystemExit(f"{kind}: the conversion fails by itself")
    duration = time.perf_counter() - start
    return models_in(folder / kind, kind), duration


def emptied(folder: Path, keep: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, data in keep.items():
        (folder / name).write_bytes(data)


@dataclass(frozen=True)
class Start:
    """What is there before a run. others: files that are none of its; models: the targets', None for none."""

    others: dict[str, bytes]
    files: dict[str, bytes]
    models: Models


def loss(folder: Path, kind: str, start: Start, new: Models) -> str:
    """What is lost or damaged, "" for nothing."""
    found = files(folder)
    changed = [name for name, data in start.others.items() if found.get(name) != data]
    if changed:
        return f"files that are none of the target's were changed: {changed}"
    for name, *states in zip(TARGETS[kind], models_in(folder, kind), start.models, new, strict=True):
        if states[0] not in states[1:]:
            return f"{name} is neither old nor new: {sorted(found)}"
    return ""


def litter(folder: Path, kind: str, start: Start) -> list[str]:
    """Shards that no index names."""
    named = {path.name for index in folder.glob("*.index.json") for path in named_by(index)}
    return [name for name in files(folder) if "-of-" in name and name not in named and name not in start.others]


def killed_at(folder: Path, kind: str, moment: float, at: str) -> bool:
    """Whether a conversion was still running at its moment and is killed now."""
    if at == "call":
        child = started(work_until, int(moment), folder, kind)
    else:
        child = started(work, folder, kind, "b.safetensors")
        time.sleep(moment)
        child.kill()
    child.join()
    return child.exitcode == -signal.SIGKILL


def work_until(call: int, folder: Path, kind: str) -> None:
    kill_at_call(call)
    work(folder, kind, "b.safetensors")


def one(folder: Path, kind: str, start: Start, new: Models, moment: float, at: str) -> str:
    emptied(folder / kind, start.others | start.files)

    killed = killed_at(folder, kind, moment, at)
    if problem := loss(folder / kind, kind, start, new):
        raise SystemExit(f"{kind}, killed at {moment}: {problem}")
    state = state_of(models_in(folder / kind, kind), start, new)
    left = any(name.startswith(".") for name in files(folder / kind))
    again, _ = complete(folder, kind, "b.safetensors")
    stray = litter(folder / kind, kind, start) + [n for n in files(folder / kind) if n.startswith(".")]
    if again != new or stray or loss(folder / kind, kind, start, new):
        raise SystemExit(f"{kind}, killed at {moment}: the next run leaves {stray or sorted(files(folder / kind))}")
    return f"{state}{', a stale temporary' if left else ''}" if killed else ENDED


def state_of(found: Models, start: Start, new: Models) -> str:
    if found == new:
        return "new"
    return ("old" if any(start.models) else "absent") if found == start.models else "some old, some new"


def prepared(folder: Path, kind: str, others: dict[str, bytes]) -> tuple[Start, Models, float]:
    """What an earlier run left, what the next one makes of another source, and how long that takes."""
    old, _ = complete(folder, kind, "a.safetensors")
    left = {name: data for name, data in files(folder / kind).items() if name not in others}
    new, duration = complete(folder, kind, "b.safetensors")
    return Start(others, left, old), new, duration


def killed_often(folder: Path, kind: str, arguments: argparse.Namespace) -> None:
    """As many kills as are asked for of one kind."""
    others = sources_beside(folder) if kind == "beside" else {}
    old, new, duration = prepared(folder, kind, others)
    absent = Start(others, {}, (None,) * len(new))
    counts, number = Counter[str](), arguments.first
    while counts.total() - counts[ENDED] < arguments.count:
        chance = random.Random(f"{arguments.at} {kind} {number}")
        number += 1
        moment = chance.uniform(0, duration) if arguments.at == "time" else chance.randrange(MOST)
        counts[one(folder, kind, chance.choice((old, absent)), new, moment, arguments.at)] += 1
        if not number % 50:
            sys.stderr.write(f"{kind}, {arguments.at}: the next is --first {number}: {dict(counts)}\n")
    killed = counts.total() - counts[ENDED]
    sys.stdout.write(f"{kind}, {arguments.at}: {killed} killed, 0 lost, none damaged: {dict(counts)}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--at", choices=("time", "call"), default="time")
    arguments = parser.parse_args()
    SERVER.set_forkserver_preload([convert.__module__, run_batch.__module__])
    with tempfile.TemporaryDirectory() as name:
        sources(Path(name))
        for kind in arguments.kind or KINDS:
            killed_often(Path(name), kind, arguments)


if __name__ == "__main__":
    main()
