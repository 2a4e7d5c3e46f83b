"""Names of files and folders that strangers chose: long, odd, or of another kind than they should be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scaled_fp8.quant import Refused, open_source
from scaled_fp8.quant.cli import main
from scaled_fp8.quant.conversion.converter import Options, convert
from scaled_fp8.quant.files.sets import files_of

ODD = ["x" * 300 + ".safetensors", "a/" * 3000 + "m.safetensors", "\0.safetensors", "..", ""]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    layers = {f"blocks.{i}.q.weight": torch.randn(64, 64).bfloat16() for i in range(3)}
    save_file(layers, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_odd_names_of_targets_and_sources_are_a_sentence(source: Path, name: str) -> None:
    before = sorted(os.listdir(source.parent))
    with pytest.raises(Refused, match="cannot be written|no reader takes"):
        convert(source, f"{source.parent}/{name}", "float8_e4m3fn")
    with pytest.raises(Refused, match="cannot be read|no such file|holds no checkpoint"):
        open_source(f"{source.parent}/{name}" if name else source.parent / "none")
    assert sorted(os.listdir(source.parent)) == before


@pytest.mark.parametrize("size", ["9" * 400, "9" * 400 + "GB", "1e400", "inf", "nan", "-1", "0", "\u0663MB"])
def test_shard_sizes_that_are_none_are_a_sentence(source: Path, size: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = source.with_name("o.safetensors.index.json")
    assert main(["convert", str(source), str(target), "--format", "float8_e4m3fn", f"--shard-size={size}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not target.exists()


@pytest.mark.parametrize("name", ["o.safetensors", "o.safetensors.index.json"])
def test_a_pipe_is_no_target(source: Path, name: str) -> None:
    target = source.with_name(name)
    os.mkfifo(target)
    with pytest.raises(Refused, match="not a regular file"):
        convert(source, target, "float8_e4m3fn", Options(shard_size=5000 if "index" in name else None))
    assert target.is_fifo() and sorted(os.listdir(source.parent)) == ["m.safetensors", name]


def test_a_device_is_no_target(source: Path) -> None:
    with pytest.raises(Refused, match="no reader takes"):
        convert(source, "/dev/null", "float8_e4m3fn")
    device = source.with_name("null.safetensors")
    device.symlink_to("/dev/null")
    with pytest.raises(Refused, match="not a regular file"):
        convert(source, device, "float8_e4m3fn")
    assert device.is_symlink() and device.is_char_device()


def test_shards_are_beside_their_index(source: Path) -> None:
    """No index makes another folder's files part of a checkpoint."""
    index = source.with_name("m.safetensors.index.json")
    for shard in ("../m.safetensors", "/etc/passwd", "sub/m.safetensors", "..", "x\0.safetensors"):
        index.write_text('{"weight_map": {"a": "%s"}}' % shard.replace("\0", "\\u0000"))  # noqa: UP031
        assert [path.parent for path in files_of(index)] == [source.parent] * len(files_of(index))
        with pytest.raises(Refused, match=r"index\.json: the shard .*(not the name of a safetensors file|is missing)"):
            open_source(index)
