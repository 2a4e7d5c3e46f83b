"""Conversions that are killed or run out of disk: the target is what it was, complete and new, or absent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import Refused
from scaled_fp8.quant.conversion.batch import run_batch
from scaled_fp8.quant.conversion.converter import Options, convert
from scaled_fp8.quant.conversion.jobs import Work
from scaled_fp8.quant.conversion.request import Request
from scaled_fp8.quant.files import atomic

ROOT = Path(__file__).parents[3]
# of each kind; SCALED_FP8_KILLS=500 is the whole number
KILLS = os.environ.get("SCALED_FP8_KILLS", "6")
Usage = namedtuple("Usage", "total used free")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("at", ["call", "time"])
def test_a_killed_conversion_damages_nothing(at: str) -> None:
    command = [sys.executable, "-m", "benchmarks.kills", "--count", KILLS, "--at", at]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and "none damaged" in result.stdout, result.stdout + result.stderr


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        failed = subprocess.run(mount, capture_output=True).returncode
    except OSError:
        failed = 1
    if failed:
        pytest.skip("mounting a tmpfs is not permitted")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("known", [True, False], ids=["seen before", "seen while writing"])
@pytest.mark.parametrize("target", ["out.safetensors", "out.safetensors.index.json"])
@pytest.mark.parametrize("temporary", ["nameless", "named"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, tiny_disk: Path, known: bool, target: str, temporary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = {f"blocks.{i}.q.weight": torch.randn(256, 256) for i in range(8)}
    save_file(layers, tmp_path / "m.safetensors")
    (tiny_disk / target).write_bytes(b"what was there")
    if not known:
        monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**40))
    if temporary == "named":
        monkeypatch.delattr(os, "O_TMPFILE")
    with pytest.raises(Refused, match="are needed" if known else "disk is full"):
        convert(tmp_path / "m.safetensors", tiny_disk / target, "float8_e4m3fn", Options(shard_size=200_000))
    assert os.listdir(tiny_disk) == [target] and (tiny_disk / target).read_bytes() == b"what was there"


def model(path: Path, seed: int, rows: int = 64) -> None:
    """Four layers of 64 values a row in bfloat16: 512 bytes for each row."""
    generator = torch.Generator().manual_seed(seed)
    layers = {f"blocks.{i}.q.weight": torch.randn(rows, 64, generator=generator).bfloat16() for i in range(4)}
    save_file(layers, path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def believed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a full disk is noticed."""
    if request.param == "seen while writing":
        monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**40))
        return "disk is full"
    return "are needed"


NOTICED = pytest.mark.parametrize("believed", ["seen before", "seen while writing"], indirect=True)


@NOTICED
@pytest.mark.parametrize("sharded", [False, True], ids=["file", "shards"])
def test_a_full_disk_with_the_source_beside_the_target(tiny_disk: Path, believed: str, sharded: bool) -> None:
    """The source, alone or in shards of our own, has 100 KB; its float32 has no room beside it."""
    model(tiny_disk / "m.safetensors", 0, rows=200)
    source = tiny_disk / "m.safetensors"
    if sharded:
        source = tiny_disk / "s.safetensors.index.json"
        convert(tiny_disk / "m.safetensors", source, "bfloat16", Options(shard_size=20_000))
        (tiny_disk / "m.safetensors").unlink()
        model(tiny_disk / "other.safetensors", 1)
    before = contents(tiny_disk)
    target = tiny_disk / ("out.safetensors.index.json" if sharded else "out.safetensors")
    with pytest.raises(Refused, match=believed):
        convert(source, target, "float32", Options(shard_size=30_000 if sharded else None))
    assert contents(tiny_disk) == before


@NOTICED
def test_a_full_disk_stops_one_file_of_a_folder(tmp_path: Path, tiny_disk: Path, believed: str) -> None:
    """The first fits and is there whole, the second does not and what was there in its place stays."""
    (tmp_path / "models").mkdir()
    model(tmp_path / "models" / "a.safetensors", 0)
    model(tmp_path / "models" / "b.safetensors", 1, rows=400)
    (tiny_disk / "b.safetensors").write_bytes(b"what was there")
    found = run_batch([str(tmp_path / "models")], str(tiny_disk), Work(Request("float32"), Options(1)))
    refused = found.said("refused") | found.said("failed")
    assert list(refused) == ["b.safetensors"] and believed in refused["b.safetensors"]
    assert {name for name in os.listdir(tiny_disk) if "manifest" not in name} == {"a.safetensors", "b.safetensors"}
    assert (tiny_disk / "b.safetensors").read_bytes() == b"what was there"
    truth, read = load_file(tmp_path / "models" / "a.safetensors"), load_file(tiny_disk / "a.safetensors")
    assert read.keys() == truth.keys() and all(torch.equal(read[name], truth[name].float()) for name in truth)


def test_memory_is_that_of_a_few_tensors(tmp_path: Path) -> None:
    """512 MB of sparse shards in a process whose data may grow by half of that."""
    code = """
import resource, sys
from pathlib import Path
from benchmarks.parts.convert import sparse_shards
from scaled_fp8.quant.conversion.converter import Options, convert
from scaled_fp8.quant.conversion.jobs import Work
from scaled_fp8.quant.conversion.request import Request
folder = Path(sys.argv[1])
index = sparse_shards(folder, 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(index, folder / "out.safetensors.index.json", "float8_e4m3fn", Options(threads=2, shard_size=10**9))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 256
