"""Sharded results against the safetensors library, and what takes the place of a former set."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import Refused
from scaled_fp8.quant.conversion.converter import Options, convert
from scaled_fp8.quant.conversion.request import Request
from scaled_fp8.quant.conversion.shards import size_of
from scaled_fp8.quant.files import atomic
from torch import Tensor

INDEX = "out.safetensors.index.json"


def model(folder: Path, layers: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    state = {f"blocks.{i}.q.weight": torch.randn(64, 64, generator=generator).bfloat16() for i in range(layers)}
    save_file(state, folder / "m.safetensors", {"format": "pt"})
    return state


def whole(folder: Path) -> dict[str, Tensor]:
    """All tensors that the index names, each from the shard it names."""
    where = json.loads((folder / INDEX).read_text())["weight_map"]
    shards = {shard: load_file(folder / shard) for shard in set(where.values())}
    assert sum(map(len, shards.values())) == len(where)
    return {name: shards[shard][name] for name, shard in where.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name].float(), b[name].float()) for name in a)


@pytest.mark.parametrize("format", ["float8_e4m3fn", "int8", "float32"])
@pytest.mark.parametrize("target", ["out.safetensors", INDEX])
def test_shards_hold_what_one_file_does(tmp_path: Path, format: str, target: str) -> None:
    model(tmp_path)
    convert(tmp_path / "m.safetensors", tmp_path / "one.safetensors", format)
    one = load_file(tmp_path / "one.safetensors")
    size = sum(t.nbytes for t in one.values()) // 3 + 10
    conversion = convert(tmp_path / "m.safetensors", tmp_path / target, format, Options(shard_size=size))
    names = [f"out-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    assert [Path(file).name for file in conversion.files] == [*names, INDEX]
    assert set(os.listdir(tmp_path)) == {"m.safetensors", "one.safetensors", *names, INDEX}
    assert same(whole(tmp_path), one)
    total = json.loads((tmp_path / INDEX).read_text())["metadata"]["total_size"]
    assert total == sum(t.nbytes for t in one.values())
    # and in again, to one file of the same bytes
    convert(tmp_path / INDEX, tmp_path / "again.safetensors", format)
    assert same(load_file(tmp_path / "again.safetensors"), one)


def test_a_small_model_needs_no_shards(tmp_path: Path) -> None:
    model(tmp_path)
    convert(tmp_path / "m.safetensors", tmp_path / INDEX, "int8")
    assert set(os.listdir(tmp_path)) == {"m.safetensors", "out.safetensors"}


def test_a_new_set_replaces_the_old_one(tmp_path: Path) -> None:
    model(tmp_path)
    for size in (10_000, 20_000):
        convert(tmp_path / "m.safetensors", tmp_path / INDEX, "bfloat16", Options(shard_size=size))
    shards = {name for name in os.listdir(tmp_path) if name.startswith("out-")}
    assert shards == set(json.loads((tmp_path / INDEX).read_text())["weight_map"].values())


@pytest.mark.parametrize("files", [0, 1, 2, 3])
def test_a_set_stays_whole_until_the_new_one_is(tmp_path: Path, files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path)
    convert(tmp_path / "m.safetensors", tmp_path / INDEX, "bfloat16", Options(shard_size=20_000))
    before, listed = whole(tmp_path), set(os.listdir(tmp_path))
    replace, left = os.replace, iter(range(files))

    def stops(a: Path, b: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        replace(a, b)

    monkeypatch.setattr(atomic.os, "replace", stops)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "m.safetensors", tmp_path / INDEX, "float16", Options(shard_size=20_000))
    assert set(os.listdir(tmp_path)) == listed
    assert same(whole(tmp_path), before) and {t.dtype for t in whole(tmp_path).values()} == {torch.bfloat16}


def test_a_refused_conversion_leaves_no_shard(tmp_path: Path) -> None:
    state = model(tmp_path)
    state["blocks.5.q.weight"][0, 0] = float("nan")
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(Refused, match=r"blocks\.5\.q\.weight: has NaN"):
        convert(tmp_path / "m.safetensors", tmp_path / INDEX, Request("float8_e4m3fn"), Options(shard_size=5000))
    assert os.listdir(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), ("2GiB", 2 << 30), ("100", 100), ("7K", 7000)]
)
def test_sizes(text: str, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-1GB", "5TB", "five", "I", "3I"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(Refused, match="no size"):
        size_of(text)
