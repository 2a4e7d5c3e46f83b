"""What the command line does with files: converting beside cp and ctq, inspecting by size."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scaled_fp8 import quant

from . import convert, inspect
from .results import Part, Row, row
from .timing import spread

LAYERS = 32  # of 32 MiB in bfloat16
SIZES = (1, 5, 20)


def conversion(rounds: int = 3) -> Iterator[Part]:
    """1 GiB of bfloat16 to float8_e4m3fn, each by a process of its own, the file in the page cache."""
    missing = {}
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "m.safetensors", Path(folder) / "out.safetensors"
        convert.model(source, LAYERS)
        commands = {"cp": ["cp", str(source), str(out)], OURS: convert.ours(source, out)}
        found = convert.rounds(commands, source, out, convert.read, rounds)
        foreign = convert.ctq(source, out)
        if shutil.which(foreign[0]):
            found |= convert.rounds({CTQ: foreign}, source, out, convert.read, 1)
        else:
            missing[CTQ] = "convert-to-quant is not installed"
    rows = tuple(converted(peer, runs) for peer, runs in found.items())
    title = "Converting 1 GiB of bf16 to float8_e4m3fn"
    notes = ("a process each, from start to end, imports included",)
    yield Part("convert", title, "python -m benchmarks --only convert", "cp", rows, missing, notes)


OURS, CTQ = "Scaled FP8's convert", "ctq --simple --low-memory"


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
