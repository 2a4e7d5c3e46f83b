"""What the command line does with files: converting beside cp and ctq, inspecting by size."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scaled_fp8 import quant

from . import inspect
from .comfyui import LONGEST, ROOT
from .results import Part, Row, row
from .timing import spread

SIZES = (1, 5, 20)


def conversion(rounds: int = 3) -> Iterator[Part]:
    """1 GiB of bfloat16 to float8_e4m3fn, each by a process of its own, the file in the page cache."""
    command = [sys.executable, "-m", "benchmarks.conversion", str(rounds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST, check=True)
    found = json.loads(done.stdout)
    missing = {} if "ctq" in found else {CTQ: "convert-to-quant is not installed"}
    rows = tuple(converted(NAMES[name], runs) for name, runs in found.items())
    title = "Converting 1 GiB of bf16 to float8_e4m3fn"
    notes = ("a process each, from start to end, imports included",)
    yield Part("convert", title, "python -m benchmarks --only convert", "cp", rows, missing, notes)


OURS, CTQ = "Scaled FP8's convert", "ctq --simple --low-memory"
NAMES = {"cp": "cp", "scaled-fp8": OURS, "ctq": CTQ}


def converted(peer: str, runs: list[tuple[float, float, float]]) -> Row:
    times, _, memory = zip(*runs, strict=True)
    note = (
        "starts Python and torch, reads, quantizes, and reads the result back before it appears" if OURS in peer else ""
    )
    return row("1 GiB", peer, spread(list(times)), memory=round(max(memory) * 2**20), note=note)


def inspection() -> Iterator[Part]:
    """Header alone, and header with the checks on samples, of sparse files."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            path = inspect.sparse_file(Path(folder) / "sparse.safetensors", size)
            headers = [inspect.timed(lambda path=path: quant.open_source(path))[0] for _ in range(5)]
            checks = [inspect.timed(lambda path=path: quant.inspect_checkpoint(path))[0] for _ in range(3)]
            rows.append(row(f"{size} GB", "Scaled FP8, header", spread(headers)))
            rows.append(row(f"{size} GB", "Scaled FP8, header and checks", spread(checks)))
    notes = ("sparse files, so that no disk is measured",)
    yield Part(
        "inspect", "Inspecting a file", "python -m benchmarks --only inspect", "Scaled FP8, header", tuple(rows),
        notes=notes,
    )  # fmt: skip
