"""Files converted to high precision, against the original weights and against arithmetic on the stored codes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import QuantizedWeight, Refused, read_checkpoint
from scaled_fp8.quant.convert import HIGH_PRECISION, cast, convert
from torch import Tensor
from zoo import ZOO

# one of each dialect
DECODED = {specimen.dialect: name for name, specimen in ZOO.items() if specimen.expected == "decoded"}
Pair = tuple[str, Tensor]
E4M3 = torch.float8_e4m3fn


def stored(folder: Path, **changes: Tensor) -> dict[str, Tensor]:
    """A small file in the dialect of LTX: one scaled layer, a plain-cast norm, an integer, a float32 tensor."""
    state = {
        "a.weight": torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).mul(100).to(E4M3),
        "a.weight_scale": torch.tensor(2e-4),
        "a.bias": torch.linspace(-1, 1, 8).to(torch.bfloat16),
        "norm.weight": torch.linspace(-1, 1, 16).to(E4M3),
        "ids": torch.arange(4),
        "table": torch.linspace(-1, 1, 5),
    } | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    metadata = {"format": "pt", "_quantization_metadata": "{}", "quantization": "fp8", "config": '{"a": 1}'}
    save_file(state, folder / "m.safetensors", metadata)
    return state


@pytest.mark.parametrize("dtype", HIGH_PRECISION.values(), ids=HIGH_PRECISION)
def test_layers_are_codes_times_scale_and_the_rest_stays(tmp_path: Path, dtype: torch.dtype) -> None:
    state = stored(tmp_path)
    convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", str(dtype).removeprefix("torch."))
    out = load_file(tmp_path / "out.safetensors")
    expected = {
        "a.weight": (state["a.weight"].float() * state["a.weight_scale"]).to(dtype),
        "norm.weight": state["norm.weight"].to(dtype),
        **{name: state[name] for name in ("a.bias", "ids", "table")},
    }
    assert out.keys() == expected.keys()
    for name, tensor in expected.items():
        assert out[name].dtype == tensor.dtype and torch.equal(out[name], tensor), name


@pytest.mark.parametrize("name", DECODED.values(), ids=DECODED)
def test_every_dialect_becomes_the_original(tmp_path: Path, tiny: dict[str, Tensor], name: str) -> None:
    specimen = ZOO[name]
    path = specimen.write(tiny, tmp_path / "m.safetensors")
    convert(path, tmp_path / "out.safetensors", "float32")
    out = load_file(tmp_path / "out.safetensors")
    ckpt = read_checkpoint(path)
    for key, tensor in tiny.items():
        got = next(value for found, value in out.items() if found.removeprefix(specimen.recipe.prefix) == key).float()
        error = (got - tensor.float()).norm() / tensor.float().norm().clamp(min=1e-30)
        assert got.shape == tensor.shape and error <= specimen.tolerance, key
    left = set(out) - {ckpt.weight_key(n) for n in ckpt} - set(ckpt.tensors)
    assert not left


def test_metadata_of_quantization_goes_and_the_rest_stays(tmp_path: Path) -> None:
    stored(tmp_path)
    convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", "bfloat16")
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "config": '{"a": 1}'}


@pytest.mark.parametrize("name", ["torchao-rows", "torchao-old"])
def test_torchao_s_descriptions_of_tensors_go(tmp_path: Path, tiny: dict[str, Tensor], name: str) -> None:
    convert(ZOO[name].write(tiny, tmp_path / "m.safetensors"), tmp_path / "out.safetensors", "bfloat16")
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert not any("_type" in value for value in (file.metadata() or {}).values())


def test_converting_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    stored(tmp_path)
    for name in "xy":
        convert(tmp_path / "m.safetensors", tmp_path / name, "bfloat16")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_the_result_has_nothing_to_convert(tmp_path: Path) -> None:
    stored(tmp_path)
    convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", "bfloat16")
    with pytest.raises(Refused, match="nothing to convert"):
        convert(tmp_path / "out.safetensors", tmp_path / "again.safetensors", "bfloat16")
    assert len(read_checkpoint(tmp_path / "out.safetensors")) == 0


@pytest.mark.parametrize("dtype", HIGH_PRECISION.values(), ids=HIGH_PRECISION)
def test_values_beyond_the_target_are_refused_by_name(dtype: torch.dtype) -> None:
    largest = torch.tensor([0.0, -torch.finfo(dtype).max])
    assert torch.equal(cast(largest, dtype, "a"), largest.to(dtype))
    for value, words in ((70000.0, "reaches 7e\\+04"), (float("nan"), "NaN"), (float("-inf"), "NaN or infinity")):
        if value > torch.finfo(dtype).max or value != 70000.0:
            with pytest.raises(Refused, match=f"^a: .*{words}"):
                cast(torch.tensor([0.0, value]), dtype, "a")


def test_an_overflow_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path)
    monkeypatch.setattr(QuantizedWeight, "dequantize", lambda self, dtype: torch.full(self.shape, 70000.0))
    with pytest.raises(Refused, match=r"^a: .*float16; choose bfloat16"):
        convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", "float16")
    assert os.listdir(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize("format", ["int3", "fp8", "", "float64"])
def test_unknown_formats_are_refused(tmp_path: Path, format: str) -> None:
    with pytest.raises(Refused, match="float32, float16, bfloat16"):
        convert(tmp_path / "none", tmp_path / "out", format)


@pytest.mark.parametrize("link", ["same", "symlink", "hard link"])
def test_the_source_is_not_overwritten(tmp_path: Path, link: str) -> None:
    stored(tmp_path)
    source = tmp_path / "m.safetensors"
    before, target = source.read_bytes(), tmp_path / "link.safetensors"
    make = {
        "same": lambda: None,
        "symlink": lambda: target.symlink_to(source),
        "hard link": lambda: os.link(source, target),
    }
    make[link]()
    with pytest.raises(Refused, match="another name"):
        convert(source, source if link == "same" else target, "bfloat16")
    assert source.read_bytes() == before


def test_a_shard_of_the_source_is_not_overwritten(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    index = ZOO["ltx-sharded"].write(tiny, tmp_path / "m.safetensors")
    shard = sorted(set(json.loads(index.read_text())["weight_map"].values()))[0]
    before = (tmp_path / shard).read_bytes()
    with pytest.raises(Refused, match="another name"):
        convert(index, tmp_path / shard, "bfloat16")
    assert (tmp_path / shard).read_bytes() == before


def test_a_refused_file_leaves_nothing(tmp_path: Path) -> None:
    stored(tmp_path, a__weight_scale=torch.tensor(0.0))
    with pytest.raises(Refused):
        convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", "bfloat16")
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    stored(tmp_path)

    def interrupted(pairs: Iterator[Pair], count: int) -> Iterator[Pair]:
        yield next(pairs)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", "bfloat16", interrupted)
    assert os.listdir(tmp_path) == ["m.safetensors"]
