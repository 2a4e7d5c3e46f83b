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


COMPANIONS = {
    "nvfp4-pre-quant-scale": {"pre_quant_scale": (128, torch.bfloat16)},
    "svdquant": {"smooth_factor": (128, torch.bfloat16)},
    "w4a8": {"weight_s_channel": (128, torch.float32)},
}
BAD = {"NaN": float("nan"), "infinite": float("inf"), "negative": -1.0, "zero": 0.0}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", COMPANIONS)
def test_companions_are_looked_at_as_scales_are(name, bad, tiny, tmp_path):
    ((key, (size, dtype)),) = COMPANIONS[name].items()
    values = torch.ones(size, dtype=dtype)
    values[5] = BAD[bad]
    if (name, bad) == ("w4a8", "zero"):
        pytest.skip("a row of zeros has a scale of zero")
    with pytest.raises(quant.Refused, match=LAYER):
        quant.read_checkpoint(changed(name, tiny, tmp_path, **{key: values}))


@pytest.mark.parametrize("name", ["nvfp4-pre-quant-scale", "svdquant"])
def test_companions_are_as_long_as_the_weight_needs(name, tiny, tmp_path):
    ((key, (_, dtype)),) = COMPANIONS[name].items()
    with pytest.raises(quant.Refused, match="values but its weight"):
        quant.read_checkpoint(changed(name, tiny, tmp_path, **{key: torch.ones(64, dtype=dtype)}))


def test_a_codebook_of_zeros_is_refused(tiny, tmp_path):
    with pytest.raises(quant.Refused, match="codebook"):
        quant.read_checkpoint(changed("w4a8", tiny, tmp_path, weight_codebook=torch.zeros(16)))


@pytest.mark.parametrize("shape", [(2, 0), (0,), (128, 0)])
def test_scales_without_elements_are_refused(shape, tiny, tmp_path):
    with pytest.raises(quant.Refused, match="has no elements"):
        quant.read_checkpoint(changed("ltx-bare", tiny, tmp_path, weight_scale=torch.zeros(shape)))


def test_bytes_without_elements_are_refused(tmp_path):
    tensors = {"a.weight": torch.zeros(0, 16, dtype=torch.uint8), "a.weight_scale": torch.ones(())}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(quant.Refused, match="has no elements"):
        quant.read_checkpoint(tmp_path / "model.safetensors")


def test_flux_fp8_api_with_scales_of_two_shapes_is_refused_or_right(tiny, tmp_path):
    path = changed("flux-fp8-api", tiny, tmp_path, scale=torch.full((128, 1), 900.0))
    read = quant.inspect_checkpoint(path)
    assert read.accepted or LAYER in read.reasons[0]


@pytest.mark.parametrize(("name", "shape"), [("mxfp8", (257, 391)), ("nvfp4", (130, 130)), ("mxfp8", (130, 130))])
def test_weights_that_are_filled_up_keep_their_shape(name, shape, tmp_path):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)) / 12
    save_file({"blocks.0.x.weight": weight}, tmp_path / "bf16.safetensors")
    quant.convert(tmp_path / "bf16.safetensors", tmp_path / "out.safetensors", quant.Request(name, family="none"))
    (read,) = quant.read_checkpoint(tmp_path / "out.safetensors").values()
    assert read.shape == shape
    assert (read.dequantize() - weight).norm() / weight.norm() < 0.13
