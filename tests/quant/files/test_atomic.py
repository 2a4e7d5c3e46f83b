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
from safetensors.torch import save_file
from scaled_fp8.quant import Refused
from scaled_fp8.quant.conversion.converter import Options, convert
from scaled_fp8.quant.files import atomic

ROOT = Path(__file__).parents[3]
# SCALED_FP8_KILLS=200 is the whole number
KILLS = os.environ.get("SCALED_FP8_KILLS", "30")
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


def test_memory_is_that_of_a_few_tensors(tmp_path: Path) -> None:
    """512 MB of sparse shards in a process whose data may grow by half of that."""
    code = """
import resource, sys
from pathlib import Path
from benchmarks.parts.convert import sparse_shards
from scaled_fp8.quant.conversion.converter import Options, convert
folder = Path(sys.argv[1])
index = sparse_shards(folder, 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(index, folder / "out.safetensors.index.json", "float8_e4m3fn", Options(threads=2, shard_size=10**9))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 256
