"""Files converted to high precision, against the original weights and against arithmetic on the stored codes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import FORMATS, QuantizedWeight, Refused, read_checkpoint
from scaled_fp8.quant.calibration.rounding import without_data
from scaled_fp8.quant.conversion.converter import Options, convert
from scaled_fp8.quant.conversion.decisions import HIGH_PRECISION
from scaled_fp8.quant.conversion.quantizing import Encode
from scaled_fp8.quant.conversion.request import Request
from scaled_fp8.quant.conversion.tasks import cast
from scaled_fp8.quant.files.writer import Output
from scaled_fp8.quant.quality.card import KEY
from scaled_fp8.quant.recipes.settings import read_settings
from scaled_fp8.quant.weights.encode import quantize
from scaled_fp8.quant.weights.formats import Format
from scaled_fp8.quant.weights.granularity import Granularity
from scaled_fp8.quant.weights.job import search_for
from scaled_fp8.quant.weights.native import description, native_tensors
from torch import Tensor
from zoo import ZOO

# one of each dialect
DECODED = {specimen.dialect: name for name, specimen in ZOO.items() if specimen.expected == "decoded"}
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
def test_layers_are_codes_times_scale_and_all_floats_are_cast(tmp_path: Path, dtype: torch.dtype) -> None:
    state = stored(tmp_path)
    convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", str(dtype).removeprefix("torch."))
    out = load_file(tmp_path / "out.safetensors")
    expected = {
        "a.weight": (state["a.weight"].float() * state["a.weight_scale"]).to(dtype),
        "norm.weight": state["norm.weight"].to(dtype),
        **{name: state[name].to(dtype) for name in ("a.bias", "table")},
        "ids": state["ids"],
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
        kept = file.metadata()
        assert kept.pop(KEY) and kept == {"format": "pt", "config": '{"a": 1}'}


@pytest.mark.parametrize("name", ["torchao-rows", "torchao-old"])
def test_torchao_s_descriptions_of_tensors_go(tmp_path: Path, tiny: dict[str, Tensor], name: str) -> None:
    convert(ZOO[name].write(tiny, tmp_path / "m.safetensors"), tmp_path / "out.safetensors", "bfloat16")
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert not any("_type" in value for value in (file.metadata() or {}).values())


def test_converting_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    stored(tmp_path)
    targets = [tmp_path / f"{name}.safetensors" for name in "xy"]
    for target in targets:
        convert(tmp_path / "m.safetensors", target, "bfloat16")
    assert targets[0].read_bytes() == targets[1].read_bytes()


def test_a_plain_file_is_cast_and_cast_back(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    save_file(tiny, tmp_path / "m.safetensors")
    convert(tmp_path / "m.safetensors", tmp_path / "wide.safetensors", "float32")
    convert(tmp_path / "wide.safetensors", tmp_path / "back.safetensors", "bfloat16")
    wide, back = (load_file(tmp_path / f"{name}.safetensors") for name in ("wide", "back"))
    for name, tensor in tiny.items():
        assert wide[name].dtype == torch.float32 and torch.equal(wide[name], tensor.float()), name
        assert torch.equal(back[name], tensor.to(torch.bfloat16)), name


def test_infinity_that_is_no_damage_stays(tmp_path: Path) -> None:
    mask = torch.tensor([0.0, float("-inf"), float("nan"), 1.0])
    save_file({"mask": mask}, tmp_path / "m.safetensors")
    convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", "float16")
    assert torch.equal(load_file(tmp_path / "out.safetensors")["mask"].nan_to_num(7), mask.half().nan_to_num(7))
    save_file({"mask": mask * 1e5}, tmp_path / "m.safetensors")
    with pytest.raises(Refused, match=r"reaches 1e\+05"):
        convert(tmp_path / "m.safetensors", tmp_path / "again.safetensors", "float16")


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
    monkeypatch.setattr(QuantizedWeight, "dequantize", lambda self: torch.full(self.shape, 70000.0))
    with pytest.raises(Refused, match=r"^a.weight: .*float16; choose bfloat16"):
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
    with pytest.raises(Refused, match="a: a scale is zero"):
        convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", "bfloat16")
    assert os.listdir(tmp_path) == ["m.safetensors"]


@contextmanager
def interrupted(total: int) -> Iterator[object]:
    class Bar:
        def update(self, n: int) -> None:
            raise KeyboardInterrupt

    yield Bar()


@pytest.mark.parametrize("format", ["bfloat16", "float8_e5m2"])
def test_an_interrupt_leaves_nothing(tmp_path: Path, format: str) -> None:
    stored(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", format, Options(bar=interrupted))
    assert os.listdir(tmp_path) == ["m.safetensors"]


##### Quantizing

PAIRS = [(f, g) for f in FORMATS.values() for g in f.granularities]
# not multiples of a tile, a block or a slab's rows
SHAPE = (200, 320)


def model(folder: Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """A transformer's block, with a layer that rules keep, one too small, a bias, a norm and an integer."""
    generator = torch.Generator().manual_seed(1)
    state = {
        f"blocks.{i}.attn.{name}.weight": (torch.randn(SHAPE, generator=generator) * 0.02).to(dtype)
        for i in range(2)
        for name in "qkv"
    }
    state |= {
        "blocks.0.attn.q.bias": torch.linspace(-1, 1, SHAPE[0]).to(dtype),
        "blocks.0.norm1.weight": torch.ones(SHAPE[1], dtype=dtype),
        "img_in.weight": torch.randn(SHAPE, generator=generator).to(dtype) * 0.02,
        "blocks.0.gate.weight": torch.randn(4, 320, generator=generator).to(dtype),
        "ids": torch.arange(3),
    }
    save_file(state, folder / "m.safetensors", {"format": "pt", "modelspec.title": "a model"})
    return state


def raw(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def chosen(format: Format, granularity: Granularity) -> Request:
    return Request(format.name, None if granularity.name == "group" else granularity.name, unsupported=True)


DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# those whose scales are searched also without the search
EFFORTS = [
    pytest.param(format, granularity, effort, id=f"{format.name}-{granularity.name}-{effort}")
    for format, granularity in PAIRS
    for effort in (("best", "fast") if format.factors else ("best",))
]


@pytest.mark.parametrize(("format", "granularity", "effort"), EFFORTS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_each_layer_is_what_rounding_in_memory_makes_of_it(
    tmp_path: Path,
    format: Format,
    granularity: Granularity,
    effort: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scaled_fp8.quant.weights.job.SLAB", 128 * 320)
    monkeypatch.setattr("scaled_fp8.quant.conversion.values.PIECE", 128 * 320)
    state = model(tmp_path, dtype)
    request = replace(chosen(format, granularity), effort=effort)
    done = convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", request, Options(check="all"))
    gains = [row.gain for row in done.rows if row.gain is not None]
    assert len(gains) == sum("attn" in name and name.endswith("weight") for name in state) * (
        bool(format.factors) and effort == "best"
    )
    out = load_file(tmp_path / "out.safetensors")
    expected, layers = {}, {}
    for name, tensor in state.items():
        if "attn" in name and name.endswith("weight"):
            weight = without_data(tensor, format, granularity, name, search_for(effort))
            expected |= native_tensors(weight, name.removesuffix("weight"))
            layers[name.removesuffix(".weight")] = description(weight)
        else:
            expected[name] = tensor
    assert out.keys() == expected.keys()
    for name, tensor in expected.items():
        same = out[name].dtype == tensor.dtype and out[name].shape == tensor.shape
        assert same and torch.equal(raw(out[name]), raw(tensor)), name
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata.pop("_quantization_metadata"))["layers"] == layers
    assert metadata.pop(KEY) and metadata == {"format": "pt", "modelspec.title": "a model"}


@pytest.mark.parametrize("format", ["float8_e4m3fn", "int8_convrot", "nvfp4", "int4"])
def test_the_number_of_threads_does_not_show(tmp_path: Path, format: str) -> None:
    model(tmp_path)
    targets = {threads: tmp_path / f"{threads}.safetensors" for threads in (1, 2, 5)}
    for threads, target in targets.items():
        convert(tmp_path / "m.safetensors", target, format, Options(threads=threads))
    assert len({target.read_bytes() for target in targets.values()}) == 1


def test_the_report_has_a_reason_for_each_layer(tmp_path: Path) -> None:
    model(tmp_path)
    request = Request("float8_e4m3fn", keep=r"blocks\.1\.attn\.v")
    conversion = convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", request)
    rows = {row.name: row for row in conversion.rows}
    assert sum(row.quantized for row in conversion.rows) == 5
    assert rows["blocks.1.attn.v.weight"].reason == r"kept as asked: blocks\.1\.attn\.v"
    assert "input" in rows["img_in.weight"].reason and "too small" in rows["blocks.0.gate.weight"].reason
    assert rows["ids"].reason == "" and rows["ids"].after == "I64"
    table = conversion.table()
    assert "argument" in table and "img_in" in table and "read back" in table
    json.dumps(conversion.to_json())


def test_formats_that_core_does_not_load_ask_for_consent(tmp_path: Path) -> None:
    model(tmp_path)
    for request in (Request("float8_e4m3fnuz"), Request("float8_e4m3fn", "per-row"), Request("int8", component="vae")):
        with pytest.raises(Refused, match="allow-unsupported"):
            convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", request)
    assert os.listdir(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("granularity", ["per-tensor", "per-row", "block"])
def test_damaged_weights_are_refused_by_name(tmp_path: Path, value: float, granularity: str) -> None:
    state = model(tmp_path)
    state["blocks.1.attn.k.weight"][150, 7] = value
    save_file(state, tmp_path / "m.safetensors")
    request = Request("float8_e4m3fn", granularity, unsupported=True)
    with pytest.raises(Refused, match=r"blocks.1.attn.k.weight: has (NaN|infinite)"):
        convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", request)
    assert os.listdir(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize("name", DECODED.values(), ids=DECODED)
def test_quantized_layers_pass_as_they_are(tmp_path: Path, tiny: dict[str, Tensor], name: str) -> None:
    path = ZOO[name].write(tiny, tmp_path / "m.safetensors")
    convert(path, tmp_path / "out.safetensors", Request("int8"))
    before, after = read_checkpoint(path), read_checkpoint(tmp_path / "out.safetensors")
    for layer in before:
        key = before.weight_key(layer)
        if not key.endswith("weight"):
            continue
        weight, again = before[layer].dequantize(), after[layer].dequantize()
        assert torch.allclose(weight, again, rtol=1e-6, atol=0), layer
        assert after.spec(layer).format == before.spec(layer).format


def test_requantizing_goes_through_the_weight(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    path = ZOO["ltx"].write(tiny, tmp_path / "m.safetensors")
    convert(path, tmp_path / "out.safetensors", Request("int8", requantize=True))
    before, after = read_checkpoint(path), read_checkpoint(tmp_path / "out.safetensors")
    again = [layer for layer in before if layer in after]
    assert again
    for layer in again:
        expected = quantize(before[layer].dequantize(), FORMATS["int8"])
        assert torch.equal(after[layer].codes, expected.codes) and torch.equal(after[layer].scale, expected.scale)
    kept = set(before) - set(again)
    out = load_file(tmp_path / "out.safetensors")
    assert all(out[before.weight_key(layer)].dtype == torch.bfloat16 for layer in kept)


def test_parts_of_an_all_in_one_checkpoint_have_their_own_rules(tmp_path: Path) -> None:
    layer = torch.randn(64, 64, generator=torch.Generator().manual_seed(2)).mul(0.1).bfloat16()
    names = {
        "model.diffusion_model.blocks.0.attn.q.weight": True,
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight": True,
        "text_encoders.t5xxl.transformer.shared.weight": False,
        "first_stage_model.decoder.mid.attn_1.q.weight": False,
    }
    save_file({name: layer.clone() for name in names}, tmp_path / "m.safetensors")
    for request, only in (
        (Request("float8_e4m3fn"), ""),
        (Request("float8_e4m3fn", component="encoder"), "text_encoders"),
    ):
        conversion = convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", request)
        found = {row.name: row.quantized for row in conversion.rows}
        assert found == {name: yes and name.startswith(only) for name, yes in names.items()}
        assert all(row.reason for row in conversion.rows)


def test_a_vae_alone_is_refused_in_fp8_and_written_in_int8_on_request(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    state = {
        f"decoder.{name}.weight": torch.randn(32, 16, 3, 3, generator=generator) * 0.1
        for name in ("conv_in", "mid.block_1.conv1")
    }
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(Refused, match="VAE"):
        convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", Request("float8_e4m3fn", unsupported=True))
    convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", Request("int8", unsupported=True))
    ckpt = read_checkpoint(tmp_path / "out.safetensors")
    name = "decoder.mid.block_1.conv1"
    assert list(ckpt) == [name] and ckpt.spec(name).full_shape == (32, 16, 3, 3)
    expected = quantize(state[f"{name}.weight"].flatten(1), FORMATS["int8"]).dequantize()
    assert torch.equal(ckpt[name].dequantize(), expected)


def test_settings_fill_in_what_no_argument_says(tmp_path: Path) -> None:
    model(tmp_path)
    (tmp_path / "s.toml").write_text('[quantization]\ntransformer = "int8"\ngranularity = "per-tensor"\n')
    settings = read_settings(tmp_path / "s.toml")
    for request, after, origin in (
        (Request(None, settings=settings), "int8 per-tensor", "s.toml"),
        (Request(None, "per-row", settings=settings), "int8 per-row", "granularity: argument"),
        (Request("float8_e5m2", settings=settings), "float8_e5m2 per-tensor", "format: argument"),
    ):
        conversion = convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", request)
        assert {row.after for row in conversion.rows if row.quantized} == {after}
        assert origin in conversion.parts[0]
    with pytest.raises(Refused, match="--format"):
        convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", Request(None))


##### What was written is read back


@pytest.mark.parametrize("check", ["sample", "all"])
@pytest.mark.parametrize("format", ["float8_e4m3fn", "int8", "nvfp4", "int4", "bfloat16"])
def test_damage_on_the_way_is_noticed(tmp_path: Path, format: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = model(tmp_path)
    put = Output.put

    def damaged(self: Output, name: str, tensor: Tensor, start: int | None = None) -> None:
        broken = name == "blocks.1.attn.v.weight"
        put(self, name, tensor.view(torch.uint8).flip(0).view(tensor.dtype) if broken else tensor, start)

    convert(tmp_path / "m.safetensors", tmp_path / "fine.safetensors", format, Options(check=check))
    os.unlink(tmp_path / "fine.safetensors")
    monkeypatch.setattr(Output, "put", damaged)
    assert "blocks.1.attn.v.weight" in state
    with pytest.raises(Refused, match=r"blocks.1.attn.v.weight was read back with"):
        convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", format, Options(check=check))
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_a_wrong_scale_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path)
    rest = Encode.put_rest
    monkeypatch.setattr(
        Encode,
        "put_rest",
        lambda self, output, tensors: rest(
            self, output, {n: t * 1.2 if n.endswith("scale") else t for n, t in tensors.items()}
        ),
    )
    with pytest.raises(Refused, match="read back"):
        convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", "float8_e4m3fn")
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_values_too_small_for_the_target_are_counted(tmp_path: Path) -> None:
    weight = torch.full((64, 64), 0.02)
    weight[0, :5], weight[1, :7] = 1e-9, 0.0
    save_file({"q.weight": weight, "k.weight": weight.clone().fill_(0.02)}, tmp_path / "m.safetensors")
    rows = {row.name: row for row in convert(tmp_path / "m.safetensors", tmp_path / "o.safetensors", "float16").rows}
    assert "5 values were too small for F16" in rows["q.weight"].reason and "too small" not in rows["k.weight"].reason
    rows = {row.name: row for row in convert(tmp_path / "m.safetensors", tmp_path / "o.safetensors", "bfloat16").rows}
    assert "too small" not in rows["q.weight"].reason


@pytest.mark.parametrize("format", ["float8_e4m3fn", "int8", "nvfp4"])
def test_what_a_reader_would_refuse_is_not_written(tmp_path: Path, format: str) -> None:
    state = model(tmp_path)
    state["blocks.1.attn.k.weight"] *= 1e-4
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(Refused, match=r"blocks\.1\.attn\.k: its weight would have std .* far below"):
        convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", format)
    assert os.listdir(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize("rows", [slice(None), slice(3, 4)], ids=["layer", "row"])
def test_zeros_are_no_fault_of_int4(tmp_path: Path, rows: slice) -> None:
    state = model(tmp_path)
    state["blocks.1.attn.k.weight"][rows] = 0
    save_file(state, tmp_path / "m.safetensors")
    convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", "int4", Options(check="all"))
    assert not bool(
        read_checkpoint(tmp_path / "out.safetensors")["blocks.1.attn.k"].dequantize()[rows].abs().max() > 1e-5
    )
