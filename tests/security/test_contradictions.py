"""Files that say two things at once, or one that no model can mean: each was read as one of them in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scaled_fp8.quant import FORMATS, Refused, read_checkpoint
from scaled_fp8.quant.checkpoint.keys import PAIRED
from scaled_fp8.quant.conversion.converter import Options, convert
from scaled_fp8.quant.weights.encode import quantize
from scaled_fp8.quant.weights.native import native_tensors
from torch import Tensor

WEIGHT = torch.randn(96, 64, generator=torch.Generator().manual_seed(0)) * 0.05
SCALE = WEIGHT.abs().max() / 448
CODES = (WEIGHT / SCALE).to(torch.float8_e4m3fn)
BIAS = torch.ones(96)
SCALED = {"a.weight": CODES, "a.weight_scale": SCALE, "a.bias": BIAS}
API = {"a.float8_data": CODES, "a.scale": 1 / SCALE, "a.scale_reciprocal": SCALE, "a.input_scale": torch.tensor(9e3),
       "a.weight": torch.zeros(1, dtype=torch.bfloat16), "a.bias": BIAS}  # fmt: skip


def saved(state: dict[str, Tensor], folder: Path) -> Path:
    save_file(state, folder / "m.safetensors")
    return folder / "m.safetensors"


def distance(path: Path) -> float:
    return float((read_checkpoint(path)["a"].dequantize() - WEIGHT).norm() / WEIGHT.norm())


@pytest.mark.parametrize("state", [SCALED, API], ids=["scaled", "reciprocal"])
def test_what_says_one_thing_is_read(state: dict[str, Tensor], tmp_path: Path) -> None:
    assert distance(saved(state, tmp_path)) < 0.04


@pytest.mark.parametrize("key", ["a.scale", "a.scale_reciprocal"])
@pytest.mark.parametrize("factor", [0.5, 1.02, 5.0, float("nan")])
def test_a_scale_and_its_reciprocal_agree(key: str, factor: float, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="reciprocal|NaN"):
        read_checkpoint(saved(API | {key: API[key] * factor}, tmp_path))


def test_a_weight_is_no_placeholder_of_another(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="two weights"):
        read_checkpoint(saved({"a.weight": WEIGHT.to(torch.float8_e4m3fn), "a.float8_data": BIAS}, tmp_path))


@pytest.mark.parametrize("sidecar", ["hf_quant_config.json", "config.json"])
def test_a_marker_outvotes_a_config(sidecar: str, tmp_path: Path) -> None:
    """INT8 codes that their marker names are no FP8 bytes because a config beside them is of another model."""
    scale = WEIGHT.abs().amax(1, keepdim=True) / 127
    marker = torch.tensor(list(json.dumps({"format": "int8_tensorwise"}).encode()), dtype=torch.uint8)
    codes = (WEIGHT / scale).round().to(torch.int8)
    path = saved({"a.weight": codes, "a.weight_scale": scale, "a.comfy_quant": marker, "a.bias": BIAS}, tmp_path)
    algorithm = {"quant_algo": "FP8"}
    said = {"hf_quant_config.json": {"quantization": algorithm}, "config.json": {"quantization_config": algorithm}}
    (tmp_path / sidecar).write_text(json.dumps(said[sidecar]))
    assert distance(path) < 0.02


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8], ids=str)
def test_int8_codes_that_lost_their_marker_are_no_bytes_of_fnuz(dtype: torch.dtype, tmp_path: Path) -> None:
    """Both formats' absmax codes end at 127: beside a config of FP8 nothing shows which one they are."""
    scale = WEIGHT.abs().amax(1, keepdim=True) / 127
    codes = (WEIGHT / scale).round().to(torch.int8).view(dtype)
    path = saved({"a.weight": codes, "a.weight_scale": scale}, tmp_path)
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    with pytest.raises(Refused, match="several formats"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz], ids=str
)
def test_int8_codes_that_the_header_calls_fp8_are_seen_by_their_signs(dtype: torch.dtype, tmp_path: Path) -> None:
    scale = WEIGHT.abs().amax(1, keepdim=True) / 100
    codes = (WEIGHT / scale).round().to(torch.int8).view(dtype)
    with pytest.raises(Refused, match="its codes are INT8|damaged"):
        read_checkpoint(saved({"a.weight": codes, "a.weight_scale": scale}, tmp_path))


def test_fp8_codes_that_header_and_config_call_int8_are_seen_by_their_signs(tmp_path: Path) -> None:
    scale = WEIGHT.abs().amax(1) / 448
    codes = (WEIGHT / scale[:, None]).to(torch.float8_e4m3fn).view(torch.int8)
    path = saved({"a.weight": codes, "a.weight_scale": scale}, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "sdnq"}}))
    with pytest.raises(Refused, match="said to be INT8, but its codes are FP8"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "factor", [torch.ones(96), -torch.ones(64), torch.full((64,), float("nan"))], ids=["long", "negative", "NaN"]
)
def test_what_lies_beside_a_plain_cast_is_looked_at(factor: Tensor, tmp_path: Path) -> None:
    cast = {"a.weight": WEIGHT.to(torch.float8_e4m3fn), "a.pre_quant_scale": torch.ones(64)}
    assert distance(saved(cast, tmp_path)) < 0.05
    with pytest.raises(Refused, match="pre_quant_scale"):
        read_checkpoint(saved(cast | {"a.pre_quant_scale": factor}, tmp_path))


@pytest.mark.parametrize("format", ["nvfp4", "mxfp8"])
@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e5m2fnuz, torch.int8, torch.bool], ids=str)
def test_block_scales_are_of_the_dtype_that_they_are_read_as(format: str, dtype: torch.dtype, tmp_path: Path) -> None:
    converted = tmp_path / "q.safetensors"
    convert(saved({"a.weight": WEIGHT}, tmp_path), converted, format)
    assert distance(converted) < 0.2
    with safe_open(converted, "pt") as file:
        state, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    state["a.weight_scale"] = state["a.weight_scale"].view(dtype)
    save_file(state, converted, header)
    with pytest.raises(Refused, match="dtype in the header"):
        read_checkpoint(converted)


def test_what_is_left_out_beside_an_unquantized_weight_is_a_scale_and_is_told(tmp_path: Path) -> None:
    left, source = torch.full((96, 1), 1e-4), tmp_path / "m.safetensors"
    saved({"a.weight": WEIGHT, "a.weight_scale": left}, tmp_path)
    assert "are ignored" in convert(source, tmp_path / "o.safetensors", "bfloat16").verdict
    for scale in (left * -1, WEIGHT[:, :4].contiguous()):
        saved({"a.weight": WEIGHT, "a.weight_scale": scale}, tmp_path)
        with pytest.raises(Refused, match="cannot be seen"):
            convert(source, tmp_path / "o.safetensors", "bfloat16")


def test_a_kernel_of_one_pixel_in_groups_is_no_stack_of_experts(tmp_path: Path) -> None:
    scale = WEIGHT.view(96, 2, 32).abs().amax(2, keepdim=True) / 448
    codes = (WEIGHT.view(96, 2, 32) / scale).to(torch.float8_e4m3fn).view(96, 64, 1)
    path = saved({"a.weight": codes, "a.scale_weight": scale}, tmp_path)
    assert read_checkpoint(path)["a"].shape == (96, 64)
    assert read_checkpoint(path).spec("a").full_shape == (96, 64, 1)
    assert distance(path) < 0.04


def test_one_name_of_a_model_is_one_tensor(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="a.bias:_data"):
        read_checkpoint(saved(SCALED | {"a.bias:_data": BIAS + 1}, tmp_path))


def test_the_grid_of_one_layer_does_not_turn_that_of_another(tmp_path: Path) -> None:
    weights = {"q": torch.randn(160, 256) * 0.05, "k": torch.randn(256, 128) * 0.05}
    state = {}
    for name, weight in weights.items():
        state |= {f"{name}.weight": (weight / 1e-3).to(torch.float8_e4m3fn), f"{name}.bias": torch.ones(len(weight))}
    state |= {"q.weight_scale_inv": torch.full((2, 2), 1e-3), "k.weight_scale_inv": torch.full((1, 2), 1e-3)}
    with pytest.raises(Refused, match="lie"):
        read_checkpoint(saved(state, tmp_path))


@pytest.mark.parametrize("shape", [(512, 1), (512, 4)], ids=["rows", "groups"])
@pytest.mark.parametrize("place", [0, 200, 511])
def test_one_absurd_scale_is_seen_wherever_it_is(shape: tuple[int, int], place: int, tmp_path: Path) -> None:
    """A sample of the codes misses most rows."""
    codes = (torch.randn(512, 256) * 60).clamp(-448, 448).to(torch.float8_e4m3fn)
    scale = torch.full(shape, 5e-4)
    state = {"a.weight": codes, "a.weight_scale": scale, "a.bias": torch.ones(512)}
    assert read_checkpoint(saved(state, tmp_path))["a"].shape == (512, 256)
    scale[place, -1] = 1e20
    with pytest.raises(Refused, match="as large as|far above"):
        read_checkpoint(saved(state, tmp_path))


def test_codes_of_a_convolution_without_their_scale_are_not_handed_on(tmp_path: Path) -> None:
    kernel = torch.randn(64, 32, 3, 3) * 0.05
    assert "c.weight" in read_checkpoint(saved(SCALED | {"c.weight": kernel.to(torch.float8_e4m3fn)}, tmp_path)).tensors
    lost = (kernel / kernel.abs().max() * 448).to(torch.float8_e4m3fn)
    with pytest.raises(Refused, match="scale is missing"):
        read_checkpoint(saved(SCALED | {"c.weight": lost}, tmp_path))


@pytest.mark.parametrize("size", [None, 3000])
@pytest.mark.parametrize("name", ["config.json", "model.pt", "model.ckpt", "model", "folder", "folder/", ".", ""])
def test_a_model_gets_a_name_that_readers_take(name: str, size: int | None, tmp_path: Path) -> None:
    """A folder is none: its shards would lie beside it."""
    path = saved({"a.weight": WEIGHT, "b.weight": WEIGHT.clone()}, tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(Refused, match="no reader takes"):
        convert(path, f"{tmp_path}/{name}", "bfloat16", Options(shard_size=size))
    assert {file.name for file in tmp_path.rglob("*")} == {path.name, "folder"}


def test_an_empty_name_is_not_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(SCALED, tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match="empty"):
        read_checkpoint("")


def marker(**said: object) -> Tensor:
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


@pytest.mark.parametrize("said", [
    {"convrot": "x"}, {"convrot": -1}, {"convrot": 1}, {"convrot": []}, {"convrot": "false"},
    {"convrot": True, "convrot_groupsize": True}, {"convrot": True, "convrot_groupsize": 16.0}, {"group_size": "64"},
    {"group_size": [64]}, {"orig_shape": 96}, {"params": ["convrot"]}, {"params": {"convrot": "yes"}},
    {"act_unsigned": 2},
], ids=str)  # fmt: skip
def test_a_value_of_a_marker_is_of_its_type(said: dict[str, object], tmp_path: Path) -> None:
    """What is no flag was taken for true, and the weight rotated."""
    with pytest.raises(Refused, match="its marker says .* the marker is damaged"):
        read_checkpoint(saved(SCALED | {"a.comfy_quant": marker(format="float8_e4m3fn", **said)}, tmp_path))


@pytest.mark.parametrize("said", [[1, 1], [96, 1], [97, 32], [33, 64], [0, 64], ["96", 64]], ids=str)
def test_a_shape_is_one_that_was_filled_up_to_the_stored_one(said: list[object], tmp_path: Path) -> None:
    """[1, 1] cut the inputs of 96 outputs down to one."""
    weight = quantize(torch.randn(96, 64), FORMATS["mxfp8"])
    tensors = native_tensors(weight, "a.") | {"a.comfy_quant": marker(format="mxfp8", orig_shape=said)}
    with pytest.raises(Refused, match="its marker says .* marker and tensor disagree"):
        read_checkpoint(saved(tensors, tmp_path))


def test_codes_are_of_a_dtype_that_codes_have(tmp_path: Path) -> None:
    """A lone float32 number called `qweight` ended in KeyError."""
    tensors = {"a.qweight": torch.tensor(0.000347), "a.comfy_quant": marker(format="float8_e4m3fn")}
    with pytest.raises(Refused):
        read_checkpoint(saved(tensors | {"a.weight_scale": torch.tensor(0.01)}, tmp_path))


@pytest.mark.parametrize("said", [{"convrot": None}, {"convrot": False}, {"group_size": None}], ids=str)
def test_a_value_that_is_not_given_says_nothing(said: dict[str, object], tmp_path: Path) -> None:
    path = saved(SCALED | {"a.comfy_quant": marker(format="float8_e4m3fn", **said)}, tmp_path)
    assert distance(path) < 0.04


@pytest.mark.parametrize("ending", PAIRED)
@pytest.mark.parametrize("shape", [(), (96, 1)], ids=["tensor", "rows"])
def test_a_scale_of_another_producers_codes_is_none_of_these(
    ending: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """Nunchaku's `.wscales` beside an unpacked FP8 weight passed for LTX-2's scale."""
    state = {"a.weight": CODES, "a" + ending: SCALE.expand(shape).clone(), "a.bias": BIAS}
    with pytest.raises(Refused, match="two dialects"):
        read_checkpoint(saved(state, tmp_path))


@pytest.mark.parametrize("shape", [(0,), (96, 0), (0, 96)])
def test_a_bias_has_elements(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(Refused, match="a.bias has no elements"):
        read_checkpoint(saved(SCALED | {"a.bias": torch.zeros(shape)}, tmp_path))


@pytest.mark.parametrize("shape", [(3, 2), (96, 2), (3, 1)])
def test_a_marker_of_whole_rows_has_no_scales_of_blocks(shape: tuple[int, ...], tmp_path: Path) -> None:
    codes = (WEIGHT / 1e-3).round().clamp(-127, 127).to(torch.int8)
    state = {"a.weight": codes, "a.comfy_quant": marker(format="int8_tensorwise")}
    assert distance(saved(state | {"a.weight_scale": torch.full((96, 1), 1e-3)}, tmp_path)) < 0.1
    with pytest.raises(Refused, match="fits no granularity"):
        read_checkpoint(saved(state | {"a.weight_scale": torch.full(shape, 1e-3)}, tmp_path))


def test_bytes_of_int8_are_no_pairs_of_four_bits(tmp_path: Path) -> None:
    """A marker of the one over the codes of the other: every shape fits, and the weight has twice as many inputs."""
    scale = WEIGHT.abs().amax(1, keepdim=True) / 127
    state = {"a.weight": (WEIGHT / scale).round().to(torch.int8), "a.weight_scale": scale}
    said = marker(format="convrot_w4a4", convrot_groupsize=64)
    with pytest.raises(Refused, match="beyond 7"):
        read_checkpoint(saved(state | {"a.comfy_quant": said}, tmp_path))


BIASED = {
    "unquantized": {"a.weight": WEIGHT.bfloat16()},
    "torchao": {"a.weight:qdata": CODES, "a.weight:scale": SCALE.reshape(1, 1)},
    "marked": {"a.weight": CODES, "a.weight_scale": SCALE, "a.comfy_quant": marker(format="float8_e4m3fn")},
    "alone": {},
}


@pytest.mark.parametrize("kind", BIASED)
@pytest.mark.parametrize("format", ["bfloat16", "float8_e4m3fn", "int8"])
def test_torchaos_name_of_a_bias_loses_none(kind: str, format: str, tmp_path: Path) -> None:
    bias = torch.linspace(-1, 1, 96).bfloat16()
    path = saved(BIASED[kind] | {"a.bias:_data": bias, "b.weight": WEIGHT.bfloat16()}, tmp_path)
    convert(path, tmp_path / "o.safetensors", format)
    with safe_open(tmp_path / "o.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("a.bias").bfloat16(), bias)
