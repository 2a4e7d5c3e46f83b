"""Time and memory of inspecting a 20 GB file: ``python -m benchmarks.parts.inspect [--gigabytes N]``.

The file is sparse, so it needs no such disk: its tensors read as zeros but for the scales.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from scaled_fp8.quant import inspect_checkpoint, open_source

from ..results import Part, row, spread

SHAPES = ([4096, 4096], [16384, 4096], [4096, 16384])
SIZES = (1, 5, 20)
T = TypeVar("T")


def inspection() -> Iterator[Part]:
    """Header alone, and header with the checks on samples, of sparse files."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            path = sparse_file(Path(folder) / "sparse.safetensors", size)
            headers = [timed(partial(open_source, path))[0] for _ in range(5)]
            checks = [timed(partial(inspect_checkpoint, path))[0] for _ in range(3)]
            rows.append(row(f"{size} GB", "Scaled FP8, header", spread(headers)))
            rows.append(row(f"{size} GB", "Scaled FP8, header and checks", spread(checks)))
    notes = ("sparse files, so that no disk is measured",)
    yield Part(
        "inspect", "Inspecting a file", "python -m benchmarks --only inspect", "Scaled FP8, header", tuple(rows),
        notes=notes,
    )  # fmt: skip


def sparse_file(path: Path, gigabytes: float = 20) -> Path:
    """A checkpoint in the dialect of LTX of about that many GB: F8_E4M3 layers, each with a scale and a bias."""
    header, scales, end, count = {}, [], 0, 0
    while end < gigabytes * 1e9:
        for key, dtype, shape, size in entries(f"blocks.{count // 12}.linears.{count % 12}", SHAPES[count % 3]):
            header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
            scales += [end] if key.endswith("scale") else []
            end += size
        count += 1
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for offset in scales:
            file.seek(8 + len(text) + offset)
            file.write(struct.pack("<f", 2e-4))
        file.truncate(8 + len(text) + end)
    return path


def entries(name: str, shape: list[int]) -> list[tuple[str, str, list[int], int]]:
    """Key, dtype, shape and bytes of one layer's tensors."""
    return [
        (f"{name}.weight", "F8_E4M3", shape, shape[0] * shape[1]),
        (f"{name}.weight_scale", "F32", [], 4),
        (f"{name}.bias", "BF16", shape[:1], 2 * shape[0]),
    ]


def timed(run: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=20)
    with tempfile.TemporaryDirectory() as folder:
        path = sparse_file(Path(folder) / "sparse.safetensors", parser.parse_args().gigabytes)
        header, source = min((timed(lambda: open_source(path)) for _ in range(5)), key=lambda timing: timing[0])
        checks, verdict = timed(lambda: inspect_checkpoint(path))
    lines = (
        f"file: {source.total_bytes / 1e9:.1f} GB, {len(source)} tensors",
        f"header: {header * 1e3:.0f} ms, the best of 5",
        f"header and checks: {checks:.2f} s",
        f"memory, torch included: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB",
        f"verdict: {verdict.sentence()[:200]}",
    )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
