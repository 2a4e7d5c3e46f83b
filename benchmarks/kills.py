"""Conversions killed with -9: what was there before is there, or the new model in its place; no other file changes.

``python -m benchmarks.kills [--count 200] [--seed 0] [--at time|call]``: at random moments, or before a random one of
the calls that write, name or move files. Exits 1 at the first loss.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from scaled_fp8.quant import open_source
from scaled_fp8.quant.conversion.converter import Options, convert
from scaled_fp8.quant.files.sets import named_by

CALLS = ("open", "pwrite", "fsync", "link", "replace", "unlink")
ENDED = "ended before the kill"
KINDS = ("nameless", "named", "shards", "beside")
NAMES = {
    "nameless": "out.safetensors",
    "named": "out.safetensors",
    "shards": "out.safetensors.index.json",
    # the source is a set of shards of an earlier run, in the folder of the target
    "beside": "out.safetensors.index.json",
}
Model = dict[str, bytes]


def model(path: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers = {f"blocks.{i}.q.weight": (torch.randn(512, 512, generator=generator) * 0.02).bfloat16() for i in range(6)}
    save_file(layers, path, {"format": "pt"})


def work(folder: Path, kind: str, source: str) -> None:
    if kind == "named" and hasattr(os, "O_TMPFILE"):
        del os.O_TMPFILE
    size = 600_000 if kind in ("shards", "beside") else None
    convert(source_of(folder, kind, source), folder / kind / NAMES[kind], "float8_e4m3fn", Options(2, shard_size=size))


def source_of(folder: Path, kind: str, source: str) -> Path:
    stem = source.removesuffix(".safetensors")
    return folder / kind / f"{stem}.safetensors.index.json" if kind == "beside" else folder / source


def sources_beside(folder: Path) -> Model:
    """Both sources as shards in the folder of the targets."""
    (folder / "beside").mkdir()
    for name in ("a", "b"):
        index = folder / "beside" / f"{name}.safetensors.index.json"
        convert(folder / f"{name}.safetensors", index, "bfloat16", Options(shard_size=1_200_000))
    return files(folder / "beside")


def model_in(folder: Path, kind: str) -> Model | None:
    """Tensor name -> bytes of the target as a reader finds it, None where there is none."""
    target = folder / NAMES[kind]
    if not target.exists():
        return None
    return {name: raw(source.tensor(name)) for source in [open_source(target)] for name in source}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def in_child(run: Callable[[], None]) -> int:
    """Process id of a copy of this process that runs it and ends."""
    child = os.fork()
    if child == 0:
        try:
            run()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


def kill_at_call(count: int) -> None:
    """Make this process kill itself at its count-th call of CALLS."""
    left = iter(range(count))

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def counting(*args: object, **kwargs: object) -> object:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counting

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def complete(folder: Path, kind: str, source: str) -> tuple[Model, float]:
    """The target that a conversion leaves which nobody kills, and how long it takes."""
    (folder / kind).mkdir(exist_ok=True)
    start = time.perf_counter()
    if os.waitpid(in_child(lambda: work(folder, kind, source)), 0)[1]:
        raise SystemExit(f"{kind}: the conversion fails by itself")
    duration = time.perf_counter() - start
    return model_in(folder / kind, kind) or {}, duration


def emptied(folder: Path, keep: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, data in keep.items():
        (folder / name).write_bytes(data)


@dataclass(frozen=True)
class Start:
    """What is there before a run. others: files that are none of its; model: the target's, None for none."""

    others: dict[str, bytes]
    files: dict[str, bytes]
    model: Model | None


def loss(folder: Path, kind: str, start: Start, new: Model) -> str:
    """What is lost or damaged, "" for nothing."""
    found = files(folder)
    changed = [name for name, data in start.others.items() if found.get(name) != data]
    if changed:
        return f"files that are none of the target's were changed: {changed}"
    model = model_in(folder, kind)
    if model not in (start.model, new):
        return f"the target is neither old nor new: {sorted(found)}"
    return ""


def litter(folder: Path, kind: str, start: Start) -> list[str]:
    """Shards that no index names."""
    named = {path.name for index in folder.glob("*.index.json") for path in named_by(index)}
    return [name for name in files(folder) if "-of-" in name and name not in named and name not in start.others]


def one(folder: Path, kind: str, start: Start, new: Model, moment: float, at: str) -> str:
    emptied(folder / kind, start.others | start.files)

    def run() -> None:
        if at == "call":
            kill_at_call(int(moment))
        work(folder, kind, "b.safetensors")

    child = in_child(run)
    if at == "time":
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    if problem := loss(folder / kind, kind, start, new):
        raise SystemExit(f"{kind}, killed at {moment}: {problem}")
    state = "new" if model_in(folder / kind, kind) == new else "old" if start.model else "absent"
    left = any(name.startswith(".") for name in files(folder / kind))
    again, _ = complete(folder, kind, "b.safetensors")
    stray = litter(folder / kind, kind, start) + [n for n in files(folder / kind) if n.startswith(".")]
    if again != new or stray or loss(folder / kind, kind, start, new):
        raise SystemExit(f"{kind}, killed at {moment}: the next run leaves {stray or sorted(again)}")
    return f"{state}{', a stale temporary' if left else ''}" if killed else ENDED


def prepared(folder: Path, kind: str, others: dict[str, bytes]) -> tuple[Start, Model, float]:
    """What an earlier run left, what the next one makes of another source, and how long that takes."""
    old, _ = complete(folder, kind, "a.safetensors")
    left = {name: data for name, data in files(folder / kind).items() if name not in others}
    new, duration = complete(folder, kind, "b.safetensors")
    return Start(others, left, old), new, duration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", choices=("time", "call"), default="time")
    arguments = parser.parse_args()
    chance, counts = random.Random(arguments.seed), dict[str, int]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, source in enumerate(("a.safetensors", "b.safetensors")):
            model(folder / source, seed)
        others = {kind: sources_beside(folder) if kind == "beside" else {} for kind in KINDS}
        known = {kind: prepared(folder, kind, others[kind]) for kind in KINDS}
        killed = runs = 0
        while killed < arguments.count:
            kind, runs = KINDS[runs % len(KINDS)], runs + 1
            old, new, duration = known[kind]
            moment = chance.uniform(0, duration) if arguments.at == "time" else chance.randrange(50)
            start = old if chance.random() < 0.5 else Start(others[kind], {}, None)
            outcome = one(folder, kind, start, new, moment, arguments.at)
            counts[outcome] = counts.get(outcome, 0) + 1
            killed += outcome != ENDED
    sys.stdout.write(f"{killed} killed, 0 lost, none damaged: {counts}\n")


if __name__ == "__main__":
    main()
