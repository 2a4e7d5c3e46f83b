"""Time and memory of converting 1 GiB of bf16 to float8_e4m3fn, beside cp and convert-to-quant in the same run.

``python -m benchmarks.parts.convert [--rounds 3] [--layers 32] [--sparse-gigabytes 8] [--without-ctq] [--json]``. Each
is a process of its own, timed from start to end, imports included; all read a file that was just read or, cold, one
dropped from memory. They are started by a process without torch: a child's peak memory is at least that of its parent,
and one with torch's threads cannot fork.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from ..comfyui import LONGEST, ROOT
from ..results import Measurement, Part, row, spread

OURS, CTQ = "Scaled FP8's convert", "ctq --simple --low-memory"
NAMES = {"cp": "cp", "scaled-fp8": OURS, "ctq": CTQ}
SHAPE = (4096, 4096)
Command = list[str]


def conversion(rounds: int = 3) -> Iterator[Part]:
    """1 GiB of bfloat16 to float8_e4m3fn, each by a process of its own, the file in the page cache."""
    command = [sys.executable, "-m", "benchmarks.parts.convert", "--json", "--rounds", str(rounds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST, check=True)
    found = json.loads(done.stdout)
    missing = {} if "ctq" in found else {CTQ: "convert-to-quant is not installed"}
    rows = tuple(converted(NAMES[name], runs) for name, runs in found.items())
    title = "Converting 1 GiB of bf16 to float8_e4m3fn"
    notes = ("a process each, from start to end, imports included",)
    yield Part("convert", title, "python -m benchmarks --only convert", "cp", rows, missing=missing, notes=notes)


def converted(peer: str, runs: list[tuple[float, float, float]]) -> Measurement:
    times, _, memory = zip(*runs, strict=True)
    note = (
        "starts Python and torch, reads, quantizes, and reads the result back before it appears" if OURS in peer else ""
    )
    return row("1 GiB", peer, spread(list(times)), memory=round(max(memory) * 2**20), note=note)


##### Processes


def model(path: Path, layers: int) -> None:
    """In a process of its own: the peak memory of a child is at least that of its parent."""
    child = os.fork()
    if child == 0:
        write_model(path, layers)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the model could not be written")


def write_model(path: Path, layers: int) -> None:
    import torch
    from scaled_fp8.quant.files.header import info_of
    from scaled_fp8.quant.files.writer import write_safetensors

    names = [f"blocks.{i}.attn.q.weight" for i in range(layers)]
    generator = torch.Generator().manual_seed(0)
    weights = ((name, (torch.randn(SHAPE, generator=generator) * 0.02).bfloat16()) for name in names)
    write_safetensors(path, [info_of(name, torch.bfloat16, SHAPE) for name in names], weights, {"format": "pt"})


def sparse_shards(folder: Path, gigabytes: float) -> Path:
    """The index of a bf16 model of zeros in shards of 1 GB, which need no such disk."""
    where, count = {}, 0
    for shard in range(round(gigabytes)):
        header, end, name = {}, 0, f"m-{shard + 1:05}-of-{round(gigabytes):05}.safetensors"
        while end < 1e9:
            shape = ([4096, 4096], [16384, 4096], [4096, 16384])[count % 3]
            size, key, count = shape[0] * shape[1] * 2, f"blocks.{count}.mlp.weight", count + 1
            header[key], where[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}, name
            end += size
        text = json.dumps(header).encode()
        (folder / name).write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(folder / name, 8 + len(text) + end)
    index = folder / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    return index


def run(command: Command) -> tuple[float, float, float]:
    """Seconds, seconds on a processor, and peak memory in MB of a process."""
    start = time.perf_counter()
    output = os.open(os.devnull, os.O_WRONLY)
    actions = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    os.close(output)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def read(path: Path) -> None:
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass


def drop(path: Path) -> None:
    """Out of the page cache, once it is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rounds(commands: dict[str, Command], source: Path, out: Path, prepare: Callable[[Path], None], count: int) -> dict:
    """Command -> its measurements, the commands taking turns."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for _ in range(count):
        for name, command in commands.items():
            out.unlink(missing_ok=True)
            os.sync()
            prepare(source)
            found[name].append(run(command))
    out.unlink(missing_ok=True)
    return found


def lines(state: str, found: dict[str, list[tuple[float, float, float]]]) -> Iterator[str]:
    ours = found["scaled-fp8"]
    for name, runs in found.items():
        seconds, processor, memory = (median(column) for column in zip(*runs, strict=True))
        ratio = median(a[0] / b[0] for a, b in zip(ours, runs, strict=True))
        versus = f", scaled-fp8 takes {ratio:.2f} times as long" if name != "scaled-fp8" else ""
        times = " ".join(f"{run[0]:.2f}" for run in runs)
        yield f"{state}: {name}: {seconds:.2f} s ({times}), {processor:.2f} s on a core, {memory:.0f} MB{versus}"


def ours(src: Path, dst: Path) -> Command:
    return [sys.executable, "-m", "scaled_fp8.quant.cli", "convert", str(src), str(dst), "--format", "float8_e4m3fn"]


def ctq(src: Path, dst: Path) -> Command:
    beside = Path(sys.executable).with_name("ctq")
    return [str(beside), "-i", str(src), "-o", str(dst), "--simple", "--low-memory"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--sparse-gigabytes", type=float, default=8)
    parser.add_argument("--without-ctq", action="store_true")
    parser.add_argument("--json", action="store_true", help="the times of a warm file alone, as one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, out = folder / "m.safetensors", folder / "out.safetensors"
        model(source, arguments.layers)
        commands = {"cp": ["cp", str(source), str(out)], "scaled-fp8": ours(source, out)}
        foreign = {} if arguments.without_ctq or not shutil.which(ctq(source, out)[0]) else {"ctq": ctq(source, out)}
        if arguments.json:
            found = rounds(commands, source, out, read, arguments.rounds) | rounds(foreign, source, out, read, 1)
            sys.stdout.write(json.dumps(found))
            return
        for state, prepare in (("warm", read), ("cold", drop)):
            found = rounds(commands, source, out, prepare, arguments.rounds)
            put(lines(state, found))
        if foreign:
            put(lines("warm", rounds({**foreign, "scaled-fp8": ours(source, out)}, source, out, read, 1)))
        if arguments.sparse_gigabytes:
            source.unlink()
            index = sparse_shards(folder, arguments.sparse_gigabytes)
            seconds, _, memory = run([*ours(index, folder / "out.safetensors.index.json"), "--shard-size", "2GB"])
            put([f"{arguments.sparse_gigabytes} GB sparse in shards, to shards: {seconds:.1f} s, {memory:.0f} MB"])


def put(texts: Iterator[str] | list[str]) -> None:
    for text in texts:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
