"""Conversions killed with -9: the target is what it was, complete and new, or absent.

``python -m benchmarks.kills [--count 200] [--seed 0] [--at time|call]``: at random moments, or before a random one of
the calls that write, name or move files. Exits 1 at the first damaged target.
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
from pathlib import Path

import torch
from safetensors.torch import save_file
from scaled_fp8.quant.conversion.converter import Options, convert

CALLS = ("open", "pwrite", "fsync", "link", "replace", "unlink")
ENDED = "ended before the kill"
KINDS = ("nameless", "named", "shards")
NAMES = {"nameless": "out.safetensors", "named": "out.safetensors", "shards": "out.safetensors.index.json"}


def model(path: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers = {f"blocks.{i}.q.weight": torch.randn(512, 512, generator=generator).bfloat16() for i in range(6)}
    save_file(layers, path, {"format": "pt"})


def work(folder: Path, kind: str, source: str) -> None:
    if kind == "named" and hasattr(os, "O_TMPFILE"):
        del os.O_TMPFILE
    size = 600_000 if kind == "shards" else None
    convert(folder / source, folder / kind / NAMES[kind], "float8_e4m3fn", Options(threads=2, shard_size=size))


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


def complete(folder: Path, kind: str, source: str) -> tuple[dict[str, bytes], float]:
    """What a conversion that nobody kills leaves, and how long it takes."""
    (folder / kind).mkdir(exist_ok=True)
    start = time.perf_counter()
    if os.waitpid(in_child(lambda: work(folder, kind, source)), 0)[1]:
        raise SystemExit(f"{kind}: the conversion fails by itself")
    return files(folder / kind), time.perf_counter() - start


def emptied(folder: Path, keep: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, data in keep.items():
        (folder / name).write_bytes(data)


def damage(found: dict[str, bytes], old: dict[str, bytes], new: dict[str, bytes], kind: str) -> str:
    """What is wrong with the target, "" for nothing. A set of shards is there when its index is."""
    target = NAMES[kind]
    if target not in found:
        stray = [
            name for name in found if not name.startswith(".") and found[name] not in (*old.values(), *new.values())
        ]
        return f"damaged {stray}" if stray or (old and kind != "shards") else ""
    states = [state for state in (old, new) if state and state[target] == found[target]]
    whole = any(all(found.get(name) == data for name, data in state.items()) for state in states)
    return "" if whole else f"the target is neither old nor new: {sorted(found)}"


def one(folder: Path, kind: str, old: dict[str, bytes], new: dict[str, bytes], moment: float, at: str) -> str:
    emptied(folder / kind, old)

    def run() -> None:
        if at == "call":
            kill_at_call(int(moment))
        work(folder, kind, "b.safetensors")

    child = in_child(run)
    if at == "time":
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    found = files(folder / kind)
    if problem := damage(found, old, new, kind):
        raise SystemExit(f"{kind}, killed at {moment}: {problem}")
    state = "new" if NAMES[kind] in found and found[NAMES[kind]] == new[NAMES[kind]] else "old" if old else "absent"
    left = sum(name.startswith(".") for name in found)
    again, _ = complete(folder, kind, "b.safetensors")
    if again != new:
        raise SystemExit(f"{kind}, killed at {moment}: the next run leaves {sorted(again)}")
    return f"{state}{', a stale temporary' if left else ''}" if killed else ENDED


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
        known = {kind: [complete(folder, kind, f"{s}.safetensors") for s in "ab"] for kind in KINDS}
        killed = runs = 0
        while killed < arguments.count:
            kind, runs = KINDS[runs % len(KINDS)], runs + 1
            (old, _), (new, duration) = known[kind]
            moment = chance.uniform(0, duration) if arguments.at == "time" else chance.randrange(50)
            outcome = one(folder, kind, old if chance.random() < 0.5 else {}, new, moment, arguments.at)
            counts[outcome] = counts.get(outcome, 0) + 1
            killed += outcome != ENDED
    sys.stdout.write(f"{killed} killed, none damaged: {counts}\n")


if __name__ == "__main__":
    main()
