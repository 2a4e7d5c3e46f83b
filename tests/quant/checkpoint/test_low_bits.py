"""Four-bit dialects beside their producers' own arithmetic, and what Nunchaku does to biases and modulations."""

from __future__ import annotations

from dataclasses import replace

import comfy_kitchen
import pytest
import torch
from safetensors.torch import load_file
from scaled_fp8 import quant
from scaled_fp8.quant.weights.native import native_tensors
from zoo import ZOO
from zoo_low_bits import (
    SHIFT,
    awq_recipe,
    factors,
    nunchaku_fp4,
    nunchaku_recipe,
    residual_e2m1,
    smoothing,
    svdquant_natural,
    svdquant_parts,
)
from zoo_recipe import comfy_quant

SHIFTED = "blocks.0.attn.proj"


def near(found, expected, bound=2e-3):
    expected = expected.float()
    return ((found.float() - expected).norm() / (expected.norm() or 1)).item() <= bound


@pytest.fixture(scope="module")
def x():
    return torch.randn(8, 128, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)


def layer_of(name, tiny, tmp_path, layer="blocks.0.attn.proj"):
    path = ZOO[name].write(tiny, tmp_path / "model.safetensors")
    return quant.read_checkpoint(path)[layer], load_file(path), layer


@pytest.mark.parametrize("name", ["svdquant", "svdquant-tiles"])
def test_svdquant_is_what_comfy_kitchen_multiplies(name, tiny, tmp_path, x):
    """The kernel's own product, with activations that its int4 holds exactly, so that only the weight shows."""
    weight, tensors, layer = layer_of(name, tiny, tmp_path)
    keys = ("weight", "weight_scale", "proj_down", "proj_up", "smooth_factor")
    codes, scale, down, up, smooth = (tensors[f"{layer}.{key}"] for key in keys)
    exact = (x * 0 + torch.arange(128) % 15 - 7).to(torch.bfloat16) * smooth
    q, scales, low = comfy_kitchen.quantize_svdquant_w4a4(exact, smooth=smooth, lora_down=down)
    product = comfy_kitchen.scaled_mm_svdquant_w4a4(q, codes, scales, scale, low, up)[: len(x)]
    assert near(exact.float() @ weight.dequantize().T, product, 0.02)


def test_awq_is_what_comfy_kitchen_multiplies(tiny, tmp_path, x):
    weight, tensors, layer = layer_of("awq-w4a16", tiny, tmp_path)
    parts = (tensors[f"{layer}.{key}"].float() for key in ("weight_scale", "weight_zero"))
    product = comfy_kitchen.gemv_awq_w4a16(x.float(), tensors[f"{layer}.weight"], *parts)
    assert near(x.float() @ weight.dequantize().T, product)


@pytest.mark.parametrize(("name", "format", "group"), [
    ("nvfp4-compressed", "nvfp4-pack-quantized", 16), ("mxfp4-autoround", "mxfp4-pack-quantized", 32),
])  # fmt: skip
def test_packed_4_bit_floats_are_what_compressed_tensors_unpacks(name, format, group, tiny, tmp_path):
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    strategy = "tensor_group" if group == 16 else "group"
    packing = QuantizationArgs(num_bits=4, type="float", strategy=strategy, group_size=group, symmetric=True)
    scheme = QuantizationScheme(targets=["Linear"], weights=packing)
    checkpoint = quant.read_checkpoint(ZOO[name].write(tiny, tmp_path / "model.safetensors"))
    for layer, weight in checkpoint.items():
        keys = [key for key in checkpoint.source if key.startswith(f"{layer}.weight")]
        stored = {key.removeprefix(f"{layer}."): checkpoint.source.tensor(key) for key in keys}
        unpacked = BaseCompressor.get_value_from_registry(format).decompress(stored, scheme)["weight"]
        assert near(weight.dequantize(), unpacked, 4e-3), layer


@pytest.mark.parametrize("name", ["svdquant", "svdquant-tiles", "awq-w4a16", "nunchaku", "nvfp4-modelopt-svd",
                                  "nunchaku-fp4", "nunchaku-fp4-joined",
                                  "nvfp4-convrot", "mxfp4-autoround", "int8-blockwise"])  # fmt: skip
def test_what_is_written_natively_is_read_as_the_same_weights(name, tiny, tmp_path):
    checkpoint = quant.read_checkpoint(ZOO[name].write(tiny, tmp_path / "model.safetensors"))
    result = quant.convert(checkpoint.source, tmp_path / "out.safetensors", quant.Request("int8"))
    again = quant.read_checkpoint(tmp_path / "out.safetensors")
    assert result.files
    for layer, weight in checkpoint.items():
        assert near(again[layer].dequantize(), weight.dequantize(), 1e-6), layer


def test_the_table_of_a_rotated_embedding_is_what_comfy_kitchen_unrotates(tmp_path):
    from comfy_kitchen.tensor.int8 import TensorWiseINT8Layout as Layout

    name = "model.embed_tokens"
    table = torch.randn(192, 128, generator=torch.Generator().manual_seed(7)).bfloat16()
    path = ZOO["int8-convrot"].write({f"{name}.weight": table}, tmp_path / "model.safetensors")
    stored, read = load_file(path), quant.read_checkpoint(path)[name].dequantize()
    scale = stored[f"{name}.weight_scale"]
    params = Layout.Params(scale, torch.float32, tuple(table.shape), convrot=True, convrot_groupsize=64)
    assert near(read, Layout.dequantize(stored[f"{name}.weight"], params), 1e-5)
    assert near(read, table, 0.02)


def test_natural_order_is_comfy_kitchens_own(tiny, tmp_path):
    """What a Nunchaku file becomes has the very tensors that comfy-kitchen's own file of the same layer has."""
    nunchaku, _, layer = layer_of("nunchaku", tiny, tmp_path)
    path = ZOO["svdquant"].write(tiny, tmp_path / "kitchen.safetensors")
    kitchen, made = load_file(path), native_tensors(nunchaku, f"{layer}.")
    for key in ("weight", "weight_scale", "proj_up", "proj_down", "smooth_factor"):
        assert torch.equal(made[f"{layer}.{key}"], kitchen[f"{layer}.{key}"]), key


def modulated(generator, outputs, inputs, name):
    weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
    return {f"{name}.weight": weight.bfloat16(), f"{name}.bias": torch.randn(outputs, generator=generator).bfloat16()}


@pytest.mark.parametrize(("name", "splits"), [("transformer_blocks.0.img_mod.1", 6), ("single.0.norm.linear", 3)])
def test_modulations_come_apart_with_their_biases(name, splits, tmp_path):
    model = modulated(torch.Generator().manual_seed(3), 64 * splits, 64, name)
    checkpoint = quant.read_checkpoint(awq_recipe(splits).write(model, tmp_path / "model.safetensors"))
    assert near(checkpoint[name].dequantize(), model[f"{name}.weight"], 0.15)
    assert near(checkpoint.tensors[f"{name}.bias"], model[f"{name}.bias"], 0.02)


@pytest.mark.parametrize("name", ["transformer_blocks.0.img_mlp.net.2", "single_transformer_blocks.0.mlp_fc2"])
def test_biases_of_shifted_activations_are_those_of_activations_as_they_come(name, tmp_path):
    model = modulated(torch.Generator().manual_seed(4), 128, 128, name)
    names = ("proj_up", "proj_down", "smooth_factor")
    checkpoint = quant.read_checkpoint(nunchaku_recipe(names).write(model, tmp_path / "model.safetensors"))
    assert near(checkpoint.tensors[f"{name}.bias"], model[f"{name}.bias"], 1e-4)


def test_nunchakus_floats_are_of_activations_that_are_not_shifted(tmp_path):
    """Its INT4 alone shifts what comes out of a GELU: the bias of its NVFP4 is the model's own."""
    name = "single_transformer_blocks.0.mlp_fc2"
    model = modulated(torch.Generator().manual_seed(5), 128, 128, name)
    checkpoint = quant.read_checkpoint(nunchaku_fp4(1).write(model, tmp_path / "model.safetensors"))
    assert torch.equal(checkpoint.tensors[f"{name}.bias"].float(), model[f"{name}.bias"].float())


@pytest.mark.parametrize(("name", "joined"), [("nunchaku-fp4", 1), ("nunchaku-fp4-joined", 2)])
def test_nunchakus_floats_are_read_exactly(name, joined, tiny, tmp_path):
    """Each code times its scale and its factor, as they were before they were put in lanes' order."""
    checkpoint = quant.read_checkpoint(ZOO[name].write(tiny, tmp_path / "model.safetensors"))
    layer = "blocks.0.attn.proj"
    codes, scale, factor = residual_e2m1(tiny[f"{layer}.weight"], joined)
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])[codes.long()]
    spread = factor.float().repeat_interleave(len(values) // joined).view(-1, 1)
    up, down = factors(tiny[f"{layer}.weight"])
    smoothed = values * scale.float().repeat_interleave(16, 1) * spread / smoothing(values.shape[1]).float()
    assert near(checkpoint[layer].dequantize(), smoothed + up.float() @ down.float(), 1e-5)


def shifted(tiny, tmp_path):
    """comfy-kitchen's file in which one layer alone takes activations that are shifted."""

    def marker(layer):
        return comfy_quant("svdquant_w4a4", act_unsigned=layer.name == SHIFTED)(layer)

    recipe = replace(svdquant_natural, beside=(svdquant_parts, marker))
    return recipe.write(tiny, tmp_path / "model.safetensors")


def test_a_shifted_layer_of_comfy_kitchen_is_what_its_kernel_computes(tiny, tmp_path, x):
    """x + shift in codes without sign, and the bias that makes up for it: beside the kernel's own product."""
    path = shifted(tiny, tmp_path)
    tensors, checkpoint = load_file(path), quant.read_checkpoint(path)
    keys = ("weight", "weight_scale", "proj_down", "proj_up", "smooth_factor", "bias")
    codes, scale, down, up, smooth, bias = (tensors[f"{SHIFTED}.{key}"] for key in keys)
    gelu = torch.nn.functional.gelu(x)
    q, scales, low = comfy_kitchen.quantize_svdquant_w4a4(
        gelu + SHIFT, smooth=smooth, lora_down=down, act_unsigned=True, lora_x=gelu
    )
    product = comfy_kitchen.scaled_mm_svdquant_w4a4(q, codes, scales, scale, low, up, bias, act_unsigned=True)
    ours = gelu.float() @ checkpoint[SHIFTED].dequantize().T + checkpoint.tensors[f"{SHIFTED}.bias"]
    assert near(ours, product[: len(x)], 0.08)


def test_activations_shifted_without_a_bias_are_refused(tmp_path, tiny):
    """The kernel adds the shift and nothing takes it out again, so that what the model computes is not to be had."""
    bare = {key: value for key, value in tiny.items() if not key.endswith("bias")}
    with pytest.raises(quant.Refused, match=f"{SHIFTED}: .* no bias that makes up for it"):
        quant.read_checkpoint(shifted(bare, tmp_path))
