"""Many files on one and on two workers of a local Ray, and what that means for thousands: ``docs/scale.md``.

``python -m benchmarks.scale [--files 12] [--layers 8] [--folder /dev/shm] [--storage 1.25] [--write]``: converts copies
of a bf16 model to float8_e4m3fn, one core a worker, in one run; counts what one conversion reads, writes and holds; and
extrapolates to 1,000 files of 24 GB and to one model of 300 GB. storage: GB/s that all workers share. --write puts the
tables into the document.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .comfyui import ROOT
from .machine import busy, machine
from .parts.convert import model

DOCUMENT = ROOT / "docs" / "scale.md"
MARKS = ("<!-- measured -->", "<!-- end of measured -->")
WORKERS = (1, 2, 8, 32, 128)
JOBS = {"1,000 files of 24 GB": (1000, 24e9), "one model of 300 GB, in 60 shards of 5 GB": (60, 5e9)}
FORMAT = "float8_e4m3fn"


@dataclass(frozen=True)
class One:
    """One conversion by one core: bytes that it reads and writes for each of its source, bytes that it holds."""

    read: float
    written: float
    held: int


@dataclass(frozen=True)
class Measured:
    """What was measured. rates: workers -> bytes of source a second, all workers together; size: bytes of a file."""

    one: One
    rates: dict[int, float]
    size: int

    @property
    def gain(self) -> float:
        return self.rates[2] / self.rates[1]


##### Measured


def convert_one(source: str, target: str) -> dict[str, float]:
    """In a process of its own, whose counters are of nothing else."""
    from scaled_fp8 import quant
    from scaled_fp8.quant.files.remote import header_at

    size = sum(info.nbytes for info, _ in header_at(source).tensors.values())
    before = counters()
    quant.convert(source, target, FORMAT, quant.Options(threads=1))
    after = counters()
    found = {name: (after[name] - before[name]) / size for name in before}
    return found | {"held": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def counters() -> dict[str, int]:
    """Bytes that this process has read and written so far."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {"read": int(lines["rchar"]), "written": int(lines["wchar"])}


def alone(folder: Path) -> One:
    command = [sys.executable, "-m", "benchmarks.scale", "--one", str(folder / "in" / "0.safetensors"), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return One(**json.loads(done.stdout))


def rate(folder: Path, workers: int, files: int, size: int) -> float:
    """Bytes a second of a Ray of so many workers, from when each has done a file until the last is done.

    What comes before is Ray's start and that of Python in each worker: seconds, whatever the job.
    """
    import ray
    from scaled_fp8.quant import Options, Request
    from scaled_fp8.quant.conversion.batch import run_jobs
    from scaled_fp8.quant.conversion.jobs import Work, job_of

    os.environ |= {"RAY_worker_niceness": "0"}  # or they wait for whatever else runs here
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    target, ends = folder / f"out{workers}", []
    target.mkdir()
    names = [f"{i}.safetensors" for i in range(2 * workers + files)]
    jobs = [job_of(str(folder / "in" / name), str(target / name)) for name in names]
    try:
        for _, outcome in run_jobs(jobs, Work(Request(FORMAT), Options(threads=1)), "ray"):
            ends.append(time.perf_counter())
            if outcome.conversion is None:
                raise SystemExit(outcome.entry.said)
        return files * size / (ends[-1] - ends[2 * workers - 1])
    finally:
        ray.shutdown()
        shutil.rmtree(target)


def measure(folder: Path, files: int, layers: int) -> Measured:
    (folder / "in").mkdir()
    model(folder / "in" / "0.safetensors", layers)
    for i in range(1, files + 2 * max(WORKERS[:2])):
        os.link(folder / "in" / "0.safetensors", folder / "in" / f"{i}.safetensors")
    size = (folder / "in" / "0.safetensors").stat().st_size
    one = alone(folder)
    return Measured(one, {workers: rate(folder, workers, files, size) for workers in (1, 2)}, size)


##### Extrapolated


def hours(measured: Measured, job: str, workers: int, storage: float) -> float:
    """Each worker as fast as the one that was measured, until there is no work left for one or the storage is full."""
    files, size = JOBS[job]
    rounds = -(-files // workers)  # a file is one worker's
    computing = rounds * size / measured.rates[1]
    moving = files * size * (measured.one.read + measured.one.written) / (storage * 1e9)
    return max(computing, moving) / 3600


def lines(measured: Measured, storage: float, folder: str) -> Iterator[str]:
    facts, one = machine(), measured.one
    files = f"files of {measured.size / 1e6:.0f} MB of bf16 to {FORMAT}"
    where = "memory" if folder.startswith("/dev/shm") else "this disk"
    yield f"On {facts['name']}, load {busy()}, one core a worker, {files}, in {where}:"
    yield ""
    yield "| measured | |\n|---|---|"
    yield f"| one worker | {measured.rates[1] / 1e6:.0f} MB/s of source |"
    yield f"| two workers | {measured.rates[2] / 1e6:.0f} MB/s, {measured.gain:.2f} times as much |"
    yield f"| read, for each byte of the source | {one.read:.2f} bytes |"
    yield f"| written, for each byte of the source | {one.written:.2f} bytes |"
    yield f"| held by a worker | {one.held / 1e9:.2f} GB |"
    yield ""
    yield f"Extrapolated from these, with storage of {storage} GB/s that all workers share:"
    yield ""
    yield f"| | read | written | held at once by 8 | {' | '.join(f'hours, {n}' for n in WORKERS)} |"
    yield f"|---|---|---|---|{'---|' * len(WORKERS)}"
    for job, (count, size) in JOBS.items():
        moved = [f"{count * size * part / 1e12:.1f} TB" for part in (one.read, one.written)]
        times = [f"{hours(measured, job, n, storage):.1f}" for n in WORKERS]
        yield f"| {' | '.join((job, *moved, f'{8 * one.held / 1e9:.0f} GB', *times))} |"


def written(text: str, tables: str) -> str:
    """A document with the tables between its marks."""
    before, _, rest = text.partition(MARKS[0])
    return f"{before}{MARKS[0]}\n{tables}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=12, help="that are timed")
    parser.add_argument("--layers", type=int, default=8, help="of 34 MB, in each file")
    parser.add_argument("--folder", help="where files are made; one in memory leaves this machine's disk out of it")
    parser.add_argument("--storage", type=float, default=1.25, help="GB/s")
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        source, folder = arguments.one
        sys.stdout.write(json.dumps(convert_one(source, f"{folder}/one.safetensors")))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        found = measure(Path(name), arguments.files, arguments.layers)
        tables = "\n".join(lines(found, arguments.storage, arguments.folder or tempfile.gettempdir()))
    sys.stdout.write(f"{tables}\n")
    if arguments.write:
        DOCUMENT.write_text(written(DOCUMENT.read_text(), tables))


if __name__ == "__main__":
    main()
