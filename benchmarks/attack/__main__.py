"""Hostile and unlucky input, by the hundred thousand: nothing is lost, and nothing wrong is read in silence.

``python -m benchmarks.attack [--tries 2000] [--first 0]``: files of a dozen dialects are changed and read, companions
put beside sound layers, and models converted between any two names of a folder, each as the number of the try says, so
that what was cut short goes on with --first. Prints how often each was tried; exits 1 if anything was lost or wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from . import beside, folders, reading

PARTS = (folders, beside, *[reading] * 8)
EVERY = 5000  # tries between two lines of progress


def tried(number: int, folder: Path) -> tuple[str, str]:
    """What came of one try, and what is wrong ("" for nothing)."""
    part = PARTS[number % len(PARTS)]
    name = part.__name__.rpartition(".")[2]
    home = folder / name
    home.mkdir(exist_ok=True)
    what, problem = part.attempt(random.Random(f"{name} {number}"), home)
    return f"{name}: {what}", problem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counts, faults = Counter[str](), 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        Path(name).chmod(0o755)
        for number in range(arguments.first, arguments.first + arguments.tries):
            what, problem = tried(number, Path(name))
            counts[what] += 1
            faults += bool(problem)
            if problem:
                sys.stdout.write(f"--first {number} --tries 1: {problem}\n")
            if not (number + 1) % EVERY:
                sys.stdout.write(f"the next is --first {number + 1}: {faults} faults, {dict(counts)}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{counts.total()} tries, {faults} lost or wrong in silence: {dict(sorted(counts.items()))}\n")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
