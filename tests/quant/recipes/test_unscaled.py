"""What core would read without its scales is not written, but kept, or refused where it is all; and inspect says so.

What core does with each is measured by tests/comfyui: test_encoders, test_control_nets, test_diffusers_names.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from scaled_fp8 import quant
from scaled_fp8.quant.cli import main
from scaled_fp8.quant.conversion.request import Request
from scaled_fp8.quant.recipes.unscaled import unscaled

CLIP = "text_model.encoder.layers.{}.mlp.fc1"
T5 = "encoder.block.{}.layer.0.SelfAttention.k"
WIDE_T5 = "encoder.block.23.layer.1.DenseReluDense.wi_1"
# names of one file's layers -> what core reads without scales
DROPPED = {
    (CLIP.format(0), CLIP.format(1)): "a CLIP",
    ("cond_stage_model.model.transformer.resblocks.0.mlp.c_fc",): "a CLIP",
    ("model.encoder.layers.0.mixer.Wqkv",): "a Jina CLIP",
    (T5.format(0), T5.format(11)): "a T5-base, UMT5-base or ByT5",
    (T5.format(0), "encoder.block.1.layer.0.SelfAttention.relative_attention_bias"): "a T5-base, UMT5-base or ByT5",
    ("model.encoder.layers.0.pre_self_attn_layernorm", "model.encoder.layers.0.self_attn.q_proj"): "a T5Gemma",
    ("vision_model.encoder.layers.0.mlp.fc1", "visual_projection"): "an image encoder",
    ("feature_projection.projection", "encoder.layers.0.attention.k_proj"): "an audio encoder",
    ("position_net.null_positive_feature", "input_blocks.1.1.transformer_blocks.0.fuser.linear"): "a GLIGEN",
    ("lora_unet_double_blocks_0_img_attn_qkv.lora_up", "lora_unet_double_blocks_0_img_attn_qkv.lora_down"): "a LoRA",
    ("transformer.blocks.0.q.lora_A.default", "transformer.blocks.0.q.lora_B.default"): "a LoRA",
    ("unet.down_blocks.0.attentions.0.to_q_lora.up", "unet.down_blocks.0.attentions.0.to_q_lora.down"): "a LoRA",
    ("double_blocks.0.img_attn.qkv", "controlnet_blocks.0"): "a control net",
    ("control_model.zero_convs.0.0",): "a control net",
    ("x_embedder", "context_embedder", "transformer_blocks.0.attn.add_q_proj"): "a model with diffusers' names",
    ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",): "a model with diffusers' names",
}
READ = [
    (T5.format(0), T5.format(23)),
    ("model.layers.0.self_attn.k_proj", "model.layers.0.mlp.gate_proj"),
    ("model.encoder.layers.0.self_attn.k_proj", "model.encoder.layers.0.mlp.gate_proj"),
    ("vision_model.encoder.layers.0.mlp.fc1", "model.layers.0.self_attn.q_proj"),
    ("audio_proj.proj1", "patch_embedding"),
    ("double_blocks.0.img_attn.qkv", "single_blocks.0.linear1"),
    ("transformer_blocks.0.attn.add_q_proj", "img_in", "txt_norm"),
]


def written(path, layers, outputs: int = 64) -> str:
    torch.manual_seed(0)
    save_file({f"{name}.weight": torch.randn(outputs, 32).bfloat16() for name in layers}, path)
    return str(path)


@pytest.mark.parametrize(("layers", "title"), DROPPED.items())
def test_what_core_reads_without_scales_is_refused_by_name(tmp_path, layers, title):
    source, target = written(tmp_path / "a.safetensors", layers), tmp_path / "b.safetensors"
    with pytest.raises(quant.Refused, match=f"core drops the scales of {title}"):
        quant.convert(source, target, "float8_e4m3fn")
    assert not target.exists()
    assert quant.convert(source, target, Request("float8_e4m3fn", unsupported=True)).checked
    assert quant.convert(source, tmp_path / "c.safetensors", "float16").checked


@pytest.mark.parametrize("layers", READ)
def test_what_core_reads_with_scales_is_not(layers):
    assert unscaled(dict.fromkeys(layers, (64, 32))) is None


@pytest.mark.parametrize(("outputs", "titles"), [(5120, ["a T5-XL"]), (10240, [])])
@pytest.mark.parametrize("format", ["float8_e4m3fn", "nvfp4"])
def test_t5_xl_is_told_from_t5_xxl_by_its_width(tmp_path, capsys, outputs, titles, format):
    """As ComfyUI core tells them; of a quantized file by the shapes that its codes mean."""
    source = written(tmp_path / "a.safetensors", (T5.format(0), WIDE_T5), outputs)
    target = str(tmp_path / "b.safetensors")
    if titles:
        with pytest.raises(quant.Refused, match="core drops the scales of a T5-XL"):
            quant.convert(source, target, format)
    quant.convert(source, target, Request(format, unsupported=bool(titles)))
    assert main(["inspect", target, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["core"]
    assert len(said) == len(titles) and all(title in line for title, line in zip(titles, said, strict=True))


def test_a_part_of_that_kind_stays_as_it_is(tmp_path):
    """An all-in-one checkpoint of SDXL has two CLIPs beside its model."""
    clip, model = f"conditioner.embedders.0.transformer.{CLIP.format(0)}", "model.diffusion_model.middle_block.1.proj"
    source = written(tmp_path / "a.safetensors", (clip, model))
    done = quant.convert(source, tmp_path / "b.safetensors", "float8_e4m3fn")
    rows = {row.name: row for row in done.rows}
    assert rows[f"{model}.weight"].quantized
    assert not rows[f"{clip}.weight"].quantized and "core drops the scales of a CLIP" in rows[f"{clip}.weight"].reason


def test_inspect_says_what_core_would_make_of_it(tmp_path, capsys):
    source = written(tmp_path / "a.safetensors", (CLIP.format(0),))
    quant.convert(source, tmp_path / "b.safetensors", Request("float8_e4m3fn", unsupported=True))
    for name, said in (("a", []), ("b", ["a CLIP"])):
        assert main(["inspect", str(tmp_path / f"{name}.safetensors"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["core"]
        assert [title for title in said if any(title in line for line in found)] == said and len(found) == len(said)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "net."])
def test_the_headers_table_has_no_prefix_that_core_strips(tmp_path, prefix):
    """Core looks for the layers of the table after it has stripped it; each layer has its own marker."""
    layers = [f"{prefix}double_blocks.{index}.img_attn.qkv" for index in range(2)]
    target = tmp_path / "b.safetensors"
    quant.convert(written(tmp_path / "a.safetensors", layers), target, "float8_e4m3fn")
    found = quant.read_checkpoint(target)
    assert ("_quantization_metadata" in found.source.metadata) == (not prefix)
    assert set(found) == set(layers) and "marked" in found.verdict.dialect
