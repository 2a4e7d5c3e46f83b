"""The zoo itself, read back by readers that are not ours: the producers' own."""

from __future__ import annotations

import json

import comfy_kitchen
import pytest
import torch
from arithmetic import hadamard
from safetensors import safe_open
from safetensors.torch import load_file
from zoo import CORE, ZOO, Layer


def stored(name, tiny, tmp_path):
    path = ZOO[name].write(tiny, tmp_path / "model.safetensors")
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata() or {}


def error(found, expected):
    expected = expected.float()
    return ((found.float() - expected).norm() / expected.norm()).item()


def test_every_core_name_is_in_the_zoo():
    assert set(CORE) <= set(ZOO)


@pytest.mark.parametrize("name", ["torchao-rows", "torchao-tensor"])
def test_torchao_reads_its_specimens(name, tiny, tmp_path):
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    tensors, metadata = stored(name, tiny, tmp_path)
    read, _ = unflatten_tensor_state_dict(tensors, metadata)
    for layer in ZOO[name].quantized(tiny):
        weight = tiny[f"{layer}.weight"]
        if weight.any():
            assert error(read[f"{layer}.weight"].dequantize(), weight) < 0.04


def test_quanto_reads_its_specimen(tiny, tmp_path):
    from optimum.quanto import QLinear, freeze, qfloat8_e4m3fn

    tensors, _ = stored("quanto-alone", tiny, tmp_path)
    name = "blocks.0.mlp.2"
    weight = tiny[f"{name}.weight"]
    linear = QLinear(weight.shape[1], weight.shape[0], dtype=torch.bfloat16, weights=qfloat8_e4m3fn)
    freeze(linear)
    linear.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
    assert error(linear.weight.dequantize(), weight) < 0.04


@pytest.mark.parametrize("name", ["mxfp8", "mxfp8-e8m0", "mxfp8-hand-swizzled", "mxfp8-hybrid"])
def test_comfy_kitchen_reads_mxfp8(name, tiny, tmp_path):
    tensors, _ = stored(name, tiny, tmp_path)
    for layer in ZOO[name].quantized(tiny):
        scale = tensors[f"{layer}.weight_scale"].view(torch.float8_e8m0fnu)
        read = comfy_kitchen.dequantize_mxfp8(tensors[f"{layer}.weight"], scale, torch.float32)
        assert error(read, tiny[f"{layer}.weight"]) < 0.04 or not tiny[f"{layer}.weight"].any()


def test_comfy_kitchen_reads_nvfp4(tiny, tmp_path):
    tensors, _ = stored("nvfp4", tiny, tmp_path)
    layer = "blocks.0.attn.proj"
    parts = [tensors[f"{layer}.{key}"] for key in ("weight", "weight_scale_2", "weight_scale")]
    assert error(comfy_kitchen.dequantize_nvfp4(*parts, torch.float32), tiny[f"{layer}.weight"]) < 0.13


def test_comfy_kitchen_reads_convrot(tiny, tmp_path):
    from comfy_kitchen.tensor.int8 import TensorWiseINT8Layout as Layout

    tensors, _ = stored("int8-convrot", tiny, tmp_path)
    name = "blocks.0.attn.proj"
    weight = tiny[f"{name}.weight"]
    scale = tensors[f"{name}.weight_scale"]
    params = Layout.Params(scale, torch.float32, tuple(weight.shape), convrot=True, convrot_groupsize=64)
    assert error(Layout.dequantize(tensors[f"{name}.weight"], params), weight) < 0.02


@pytest.mark.parametrize("size", [4, 64, 256])
def test_hadamard_is_its_own_inverse(size):
    assert torch.allclose(hadamard(size) @ hadamard(size), torch.eye(size), atol=1e-5)


def test_the_markers_are_json(tiny, tmp_path):
    tensors, metadata = stored("comfy-both", tiny, tmp_path)
    layers = json.loads(metadata["_quantization_metadata"])["layers"]
    marked = {key.removesuffix(".comfy_quant"): bytes(t.tolist()) for key, t in tensors.items() if "comfy_quant" in key}
    assert {name: json.loads(text) for name, text in marked.items()} == layers
    assert set(layers) == set(ZOO["comfy-both"].quantized(tiny))


def test_a_layer_holds_what_is_written(tiny):
    layer = ZOO["ltx"].recipe.layer("x.weight", tiny["blocks.0.attn.qkv.weight"])
    assert isinstance(layer, Layer)
    assert error(layer.codes.float() * layer.scale, layer.weight) < 0.04
