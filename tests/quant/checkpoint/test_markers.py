"""A marker is binding: what it says is followed, or the layer is refused by name; companions are as sound as scales."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from scaled_fp8 import quant
from scaled_fp8.quant.checkpoint.markers import MARKS
from scaled_fp8.quant.weights.native import own_names
from zoo import ZOO

LAYER = "blocks.0.attn.proj"
E4M3 = torch.float8_e4m3fn


def changed(name, tiny, tmp_path, **tensors):
    """The file of a specimen with other tensors of one layer."""
    path = ZOO[name].write(tiny, tmp_path / "model.safetensors")
    save_file(load_file(path) | {f"{LAYER}.{key}": value for key, value in tensors.items()}, path)
    return path


def marker(**said):
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


@pytest.mark.parametrize("base", ["comfy-marker", "int8-rows", "mxfp8", "nvfp4", "svdquant"])
@pytest.mark.parametrize("format", ["float9", "int2_magic", "", 7, None, ["int8_tensorwise"]])
def test_a_format_nobody_knows_is_refused_by_its_name(base, format, tiny, tmp_path):
    path = changed(base, tiny, tmp_path, comfy_quant=marker(format=format))
    with pytest.raises(quant.Refused, match=f"{LAYER}: its marker names the format") as caught:
        quant.read_checkpoint(path)
    assert str(format) in str(caught.value)


def test_an_unknown_format_in_the_header_is_refused_too(tiny, tmp_path):
    tensors, header = ZOO["comfy-header"].recipe.pack(tiny)
    table = json.loads(header["_quantization_metadata"])
    table["layers"][LAYER]["format"] = "float9"
    save_file(tensors, tmp_path / "model.safetensors", {"_quantization_metadata": json.dumps(table)})
    with pytest.raises(quant.Refused, match="float9"):
        quant.read_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize("weight", [torch.ones(8, 8, dtype=torch.bfloat16), torch.ones(4, 4, 3, 3).to(E4M3)])
def test_an_unknown_format_beside_what_else_is_no_codes_is_refused(weight, tmp_path):
    """Only its marker says what such a weight means: rotated, permuted, scaled."""
    save_file({"a.weight": weight, "a.comfy_quant": marker(format="float9")}, tmp_path / "model.safetensors")
    with pytest.raises(quant.Refused, match="a: its marker names the format 'float9'"):
        quant.read_checkpoint(tmp_path / "model.safetensors")


def test_a_convolution_that_is_marked_needs_its_scale(tmp_path):
    weight = (torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)) / 6).to(E4M3)
    tensors = {"a.weight": weight, "a.comfy_quant": marker(format="float8_e4m3fn")}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(quant.Refused, match="a: its scale is missing"):
        quant.read_checkpoint(tmp_path / "model.safetensors")


def test_a_known_format_beside_a_dequantized_weight_is_a_leftover(tiny, tmp_path):
    tensors = tiny | {f"{LAYER}.comfy_quant": marker(format="float8_e4m3fn")}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = quant.read_checkpoint(tmp_path / "model.safetensors")
    assert torch.equal(checkpoint.tensors[f"{LAYER}.weight"], tiny[f"{LAYER}.weight"])


def test_a_known_format_of_other_codes_is_refused(tiny, tmp_path):
    path = changed("comfy-marker", tiny, tmp_path, comfy_quant=marker(format="int8_tensorwise"))
    with pytest.raises(quant.Refused, match="marker and tensor disagree"):
        quant.read_checkpoint(path)


@pytest.mark.parametrize("said", [{"convr0t": True}, {"forma": "int8_tensorwise"}])
def test_a_key_that_is_nearly_a_binding_one_is_damage(said, tiny, tmp_path):
    path = changed("int8-rows", tiny, tmp_path, comfy_quant=marker(format="int8_tensorwise", **said))
    with pytest.raises(quant.Refused, match="the marker is damaged"):
        quant.read_checkpoint(path)


def test_a_rotation_by_a_group_but_not_said_to_be_is_refused(tiny, tmp_path):
    path = changed("int8-rows", tiny, tmp_path, comfy_quant=marker(format="int8_tensorwise", convrot_groupsize=64))
    with pytest.raises(quant.Refused, match="does not say whether"):
        quant.read_checkpoint(path)


def test_every_name_that_is_written_is_known():
    assert set(own_names()) <= set(MARKS)


@pytest.mark.parametrize(("name", "shape"), [("mxfp8", (257, 391)), ("nvfp4", (130, 130)), ("mxfp8", (130, 130))])
def test_weights_that_are_filled_up_keep_their_shape(name, shape, tmp_path):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)) / 12
    save_file({"blocks.0.x.weight": weight}, tmp_path / "bf16.safetensors")
    quant.convert(tmp_path / "bf16.safetensors", tmp_path / "out.safetensors", quant.Request(name, family="none"))
    (read,) = quant.read_checkpoint(tmp_path / "out.safetensors").values()
    assert read.shape == shape
    assert (read.dequantize() - weight).norm() / weight.norm() < 0.13
