"""All measurements of this machine: ``python -m benchmarks [--only linears,load] [--quick] [--out FOLDER]``.

Writes benchmarks/results/MACHINE.json after each case of a part, which takes two minutes and a half at most, and
docs/benchmarks.md at the end; into another folder MACHINE.json and its tables, MACHINE.md, after each case. Parts that
are left out keep the figures they had. With a GPU it also runs tests/gpu, and begins with what only a GPU can tell: a
run that is cut short, by a kill too, has that.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .comfyui import ROOT
from .machine import machine, slug
from .parts.convert import conversion
from .parts.doctor import doctor
from .parts.inspect import inspection
from .parts.linears import Bench, blocks, linears
from .parts.load import load
from .parts.overhead import overhead
from .parts.step import step
from .parts.tests import gpu_tests
from .results import FOLDER, Part, Results, every, read
from .shapes import LARGE, MODELS, SMALL, SMALL_TOKENS, TINY, TOKENS, Model
from .table import TARGET, write_document

Maker = Callable[[], Iterator[Part]]
Sizes = tuple[tuple[Model, ...], tuple[int, ...]]  # models, and numbers of tokens
SIZES: dict[bool, Sizes] = {True: (MODELS, TOKENS), False: (SMALL, SMALL_TOKENS)}  # whether on a GPU
QUICK: Sizes = (TINY, (1, 16))


def parts(device: torch.device, quick: bool) -> dict[str, Maker]:
    """Name -> what measures it, what matters most first. quick: the smallest shapes and files, to see that all runs."""
    gpu, kind = device.type == "cuda", device.type
    models, tokens = SIZES[gpu]
    budget, limit = (0.02, 120.0) if gpu else (0.3, 90.0)
    if quick:
        (models, tokens), budget = QUICK, 0.001
    return {
        "doctor": doctor,
        **({"tests": gpu_tests} if gpu else {}),
        "blocks": lambda: blocks(models, LARGE if gpu and not quick else 64, bench(device, budget, limit)),
        "linears": lambda: linears(models, tokens, bench(device, budget, limit)),
        "step": partial(step, kind),
        "overhead": overhead,
        "load": partial(load, kind),
        "convert": conversion,
        "inspect": inspection,
    }


def keep(results: Results, path: Path) -> None:
    """The results as JSON, and their tables beside them where they are not for the project's own document."""
    results.save(path)
    if path.parent != FOLDER:
        write_document([results], path.with_suffix(".md"))


def bench(device: torch.device, budget: float, limit: float) -> Bench:
    return Bench(device, budget, time.monotonic() + limit)


def run(makers: dict[str, Maker], wanted: list[str], save: Callable[[list[Part]], object]) -> list[Part]:
    """The parts wanted; saved each time one tells more, so that a run that is cut short leaves what it found."""
    found: dict[str, Part] = {}

    def keep(part: Part) -> None:
        found[part.name] = part
        save(list(found.values()))

    for name in wanted:
        start = time.monotonic()
        measured(name, makers[name], keep)
        sys.stdout.write(f"{name}: {time.monotonic() - start:.0f} s\n")
        sys.stdout.flush()
    return list(found.values())


def measured(name: str, make: Maker, keep: Callable[[Part], None]) -> None:
    """The parts of one maker as they grow; one that fails is told in the table and costs no figures."""
    told = Part(name, name, f"python -m benchmarks --only {name}", "")
    try:
        with torch.inference_mode():
            for part in make():
                told = part if part.name == name else told
                keep(part)
    except (RuntimeError, OSError, SystemExit, subprocess.SubprocessError) as problem:
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        keep(replace(told, missing={**told.missing, "failed": lines[0][:300]}))
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def merged(facts: dict[str, Any], found: list[Part], names: list[str], path: Path) -> Results:
    """The new parts in the places of those that path has of this machine."""
    kept = {part.name: part for part in read(path).parts} if path.exists() else {}
    both = {**kept, **{part.name: part for part in found}}
    order = [name for each in names for name in (each, f"{each}-graph")]
    return Results(facts, tuple(both[name] for name in order if name in both))


class Once(logging.Filter):
    """Lets a library's warning pass once, and its first line alone: some tell of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, int]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        new = (record.name, record.lineno) not in self.seen
        self.seen.add((record.name, record.lineno))
        lines = record.getMessage().splitlines() or [""]
        record.msg, record.args = lines[0][:300], None
        return new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of parts, by commas; all of them by default")
    parser.add_argument("--out", type=Path, help="folder for the results and their tables, saved after each case")
    parser.add_argument(
        "--quick", action="store_true", help="smallest shapes, to see that all runs; kept by --out alone"
    )
    arguments = parser.parse_args()
    quiet = logging.StreamHandler()
    quiet.addFilter(Once())
    logging.basicConfig(handlers=[quiet], level=logging.WARNING)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(min(os.cpu_count() or 1, 16))
    makers = parts(device, arguments.quick)
    facts, names = machine(), list(makers)
    path = (arguments.out or FOLDER) / f"{slug(str(facts['name']))}.json"

    def save(found: list[Part]) -> None:
        if arguments.out or not arguments.quick:
            keep(merged(facts, found, names, path), path)

    run(makers, [name for name in arguments.only.split(",") if name] or names, save)
    if not (arguments.quick or arguments.out):
        write_document(every())
        sys.stdout.write(f"{path.relative_to(ROOT)} and {TARGET.relative_to(ROOT)} are written\n")


if __name__ == "__main__":
    main()
