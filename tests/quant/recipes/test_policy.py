"""Rules: which family a model is of, which layers are kept, and that each says why."""

from __future__ import annotations

import re

import pytest
from scaled_fp8.quant import FORMATS, Refused
from scaled_fp8.quant.recipes.families import FAMILIES, GENERIC, Rule
from scaled_fp8.quant.recipes.policy import Policy, bare_name, decide, recognise
from torch import Tensor

FP8 = FORMATS["float8_e4m3fn"]
ROW = FP8.granularity("per-row")

# family -> names of tensors as ComfyUI and diffusers have them; (kept layers), (quantized layers)
MODELS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "flux1": (
        ("double_blocks.0.img_mod.lin.weight", "single_blocks.0.linear1.weight"),
        ("img_in", "txt_in", "time_in.in_layer", "vector_in.out_layer", "guidance_in.in_layer", "final_layer.linear",
         "final_layer.adaLN_modulation.1", "double_blocks.0.img_attn.norm.query_norm"),
        ("double_blocks.0.img_attn.qkv", "double_blocks.18.txt_mlp.2", "single_blocks.37.linear2",
         "double_blocks.3.img_mod.lin", "single_blocks.3.modulation.lin"),
    ),
    "flux2": (
        ("double_stream_modulation_img.lin.weight",),
        ("double_stream_modulation_img.lin", "single_stream_modulation.lin", "time_in.in_layer", "final_layer.linear"),
        ("double_blocks.7.img_attn.proj", "single_blocks.47.linear1"),
    ),
    "chroma": (
        ("distilled_guidance_layer.in_proj.weight", "double_blocks.0.img_attn.qkv.weight"),
        ("distilled_guidance_layer.layers.0.in_layer", "img_in", "txt_in", "final_layer.linear"),
        ("double_blocks.0.img_attn.qkv", "single_blocks.3.linear2"),
    ),
    "wan": (
        ("time_projection.1.weight", "blocks.0.cross_attn.k.weight"),
        ("text_embedding.0", "time_embedding.2", "time_projection.1", "head.head", "img_emb.proj.1", "blocks.0.norm3",
         "face_encoder.out_proj"),
        ("blocks.0.self_attn.q", "blocks.39.cross_attn.v_img", "blocks.5.ffn.2"),
    ),
    "ltx2": (
        ("patchify_proj.weight", "adaln_single.emb.timestep_embedder.linear_1.weight"),
        ("patchify_proj", "proj_out", "audio_proj_out", "adaln_single.linear", "transformer_blocks.0.attn1.to_q",
         "transformer_blocks.47.ff.net.2", "transformer_blocks.9.attn1.to_gate_logits",
         "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q"),
        ("transformer_blocks.10.attn1.to_q", "transformer_blocks.4.ff.net.0.proj",
         "transformer_blocks.42.attn2.to_out.0"),
    ),
    "qwen_image": (
        ("transformer_blocks.0.img_mod.1.weight", "txt_norm.weight"),
        ("img_in", "txt_in", "time_text_embed.timestep_embedder.linear_1", "norm_out.linear", "proj_out",
         "transformer_blocks.0.img_mod.1"),
        ("transformer_blocks.1.img_mod.1", "transformer_blocks.0.attn.add_q_proj",
         "transformer_blocks.59.img_mlp.net.2"),
    ),
    "z_image": (
        ("cap_embedder.1.weight", "noise_refiner.0.attention.k_norm.weight"),
        ("x_embedder", "cap_embedder.1", "t_embedder.mlp.0", "final_layer.linear", "layers.0.adaLN_modulation.0"),
        ("layers.0.attention.qkv", "layers.29.feed_forward.w2", "context_refiner.0.attention.out"),
    ),
    "hunyuan_video": (
        ("txt_in.individual_token_refiner.blocks.0.norm1.weight", "double_blocks.0.img_mod.lin.weight",
         "single_blocks.0.linear1.weight"),
        ("txt_in.individual_token_refiner.blocks.0.self_attn.qkv", "img_in.proj", "time_in.in_layer",
         "vision_in.proj.1",
         "final_layer.linear", "byt5_in.fc1"),
        ("double_blocks.0.img_attn.qkv", "single_blocks.39.linear1"),
    ),
    "krea2": (
        ("txtfusion.projector.weight", "tproj.1.weight"),
        ("first", "last.linear", "tmlp.0", "tproj.1", "txtfusion.refiner_blocks.0.attn.wq", "txtmlp.1"),
        ("blocks.0.attn.wq", "blocks.27.mlp.down"),
    ),
    "sd35": (
        ("joint_blocks.0.context_block.attn.qkv.weight",),
        ("context_embedder", "x_embedder.proj", "t_embedder.mlp.0", "y_embedder.mlp.0", "final_layer.linear"),
        ("joint_blocks.0.x_block.attn.qkv", "joint_blocks.37.context_block.mlp.fc1"),
    ),
    "sdxl": (
        ("label_emb.0.0.weight", "input_blocks.0.0.weight", "middle_block.1.proj_in.weight"),
        ("label_emb.0.0", "time_embed.0", "input_blocks.1.0.emb_layers.1", "middle_block.1.proj_in", "out.2"),
        ("middle_block.1.transformer_blocks.0.attn1.to_q", "input_blocks.7.1.transformer_blocks.3.ff.net.2"),
    ),
    "t5": (
        ("encoder.block.0.layer.0.SelfAttention.q.weight",),
        ("shared", "encoder.embed_tokens", "encoder.block.0.layer.0.layer_norm",
         "decoder.block.0.layer.0.SelfAttention.q"),
        ("encoder.block.0.layer.0.SelfAttention.q", "encoder.block.23.layer.1.DenseReluDense.wo"),
    ),
    "umt5": (
        ("encoder.block.0.layer.0.SelfAttention.q.weight",
         "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"),
        ("shared", "encoder.block.1.layer.0.SelfAttention.relative_attention_bias"),
        ("encoder.block.3.layer.0.SelfAttention.o",),
    ),
    "gemma3": (
        ("layers.0.pre_feedforward_layernorm.weight", "layers.0.self_attn.q_norm.weight"),
        ("embed_tokens", "layers.0.mlp.up_proj", "vision_model.encoder.layers.3.mlp.fc1",
         "multi_modal_projector.mm_input_projection"),
        ("layers.1.mlp.up_proj", "layers.47.self_attn.q_proj"),
    ),
    "qwen25_vl": (
        ("layers.0.self_attn.k_proj.bias",),
        ("embed_tokens", "lm_head", "layers.0.self_attn.k_proj", "visual.blocks.3.attn.qkv"),
        ("layers.27.mlp.down_proj", "layers.10.self_attn.q_proj"),
    ),
    "qwen3": (
        ("layers.0.self_attn.q_norm.weight",),
        ("embed_tokens", "lm_head", "layers.0.self_attn.k_proj"),
        ("layers.35.mlp.down_proj",),
    ),
}  # fmt: skip
PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "model.", "transformer.")


def test_every_family_has_an_example() -> None:
    assert set(MODELS) == set(FAMILIES)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("family", FAMILIES)
def test_recognised_by_names_under_any_prefix(family: str, prefix: str) -> None:
    found = recognise(prefix + name for name in MODELS[family][0])
    assert found is FAMILIES[family]


DIFFUSERS = {
    "flux1": ("single_transformer_blocks.0.proj_mlp.weight", "transformer_blocks.0.norm1_context.linear.weight"),
    "wan": ("condition_embedder.time_proj.weight", "blocks.0.attn2.to_k.weight"),
    "hunyuan_video": ("context_embedder.token_refiner.refiner_blocks.0.attn.to_q.weight",),
    "sd35": ("pos_embed.proj.weight", "transformer_blocks.0.attn.add_k_proj.weight"),
    "sdxl": ("add_embedding.linear_1.weight", "mid_block.attentions.0.proj_in.weight"),
}


@pytest.mark.parametrize("family", DIFFUSERS)
def test_recognised_by_diffusers_names(family: str) -> None:
    assert recognise(DIFFUSERS[family]) is FAMILIES[family]


def test_diffusers_blocks_end_in_proj_out_too() -> None:
    policy = Policy(FP8, ROW, family=FAMILIES["flux1"])
    assert policy.decide("single_transformer_blocks.3.proj_out", (3072, 15360)).quantize
    assert not policy.decide("proj_out", (64, 3072)).quantize


def test_unknown_models_have_no_family_and_generic_rules() -> None:
    assert recognise(("a.weight", "b.weight")) is None
    assert decide("layers.3.attention.q", (512, 512), FP8, ROW).quantize
    assert not decide("proj_out", (512, 512), FP8, ROW).quantize


def test_a_family_of_another_component_is_not_recognised() -> None:
    assert recognise(MODELS["t5"][0], component="transformer") is None


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("family", FAMILIES)
def test_rules_keep_and_quantize(family: str, prefix: str) -> None:
    known = FAMILIES[family]
    policy = Policy(FP8, ROW, known.component, known)
    _, kept, quantized = MODELS[family]
    for name in kept:
        decision = policy.decide(prefix + name, (1024, 1024))
        assert not decision.quantize, name
        assert decision.reason
    for name in quantized:
        assert policy.decide(prefix + name, (1024, 1024)).quantize, name


def test_digits_flux2_is_quantized_in_its_blocks_only(digits: dict[str, Tensor]) -> None:
    family = recognise(digits)
    assert family is FAMILIES["flux2"]
    policy = Policy(FP8, ROW, family=family)
    found = {n for n, t in digits.items() if policy.decide(n.removesuffix(".weight"), tuple(t.shape)).quantize}
    expected = {n for n, t in digits.items() if re.match(r"(double|single)_blocks\.", n) and t.ndim == 2}
    assert found == expected


def test_the_first_rule_wins_and_a_wish_comes_before_all() -> None:
    policy = Policy(FP8, ROW, family=FAMILIES["qwen_image"], keep=r"blocks\.1\.")
    assert policy.decide("transformer_blocks.1.img_mod.1", (64, 64)).reason == r"kept as asked: blocks\.1\."
    assert policy.decide("transformer_blocks.2.img_mod.1", (64, 64)).quantize
    assert policy.decide("transformer_blocks.0.img_mod.1", (64, 64)).reason == "modulation of the first block"


def test_keep_sees_the_whole_name() -> None:
    policy = Policy(FP8, ROW, keep=r"^model\.diffusion_model\.layers\.0\.")
    assert not policy.decide("model.diffusion_model.layers.0.q", (64, 64)).quantize
    assert policy.decide("layers.0.q", (64, 64)).quantize


@pytest.mark.parametrize(
    ("format", "shape", "reason"),
    [
        ("float8_e4m3fn", (8, 512), "too small"),
        ("float8_e4m3fn", (512,), "not a matrix"),
        ("float8_e4m3fn", (64, 64, 3, 3), "only a VAE's"),
        ("nvfp4", (512, 513), "multiples of 2"),
        ("int8_convrot", (512, 520), "multiples of 16"),
        ("int4_convrot", (512, 528), "multiples of 64"),
    ],
    ids=str,
)
def test_shapes_that_a_format_cannot_hold(format: str, shape: tuple[int, ...], reason: str) -> None:
    policy = Policy(FORMATS[format], FORMATS[format].granularity())
    decision = policy.decide("layers.1.q", shape)
    assert not decision.quantize
    assert reason in decision.reason


def test_quantized_layers_are_left_alone() -> None:
    decision = Policy(FP8, ROW).decide("layers.1.q", (512, 512), already="quantized to int8")
    assert decision.reason == "already quantized to int8: left as it is"


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "int8"])
def test_only_int8_for_a_vae(format: str) -> None:
    with pytest.raises(Refused, match=f"'vae' is not quantized to {format}.*choose int8"):
        Policy(FORMATS[format], FORMATS[format].granularity(), "vae")


def test_vae_convolutions_inside_are_quantized() -> None:
    policy = Policy(FORMATS["int8"], FORMATS["int8"].granularity(), "vae")
    assert policy.decide("first_stage_model.decoder.up.0.block.1.conv1", (512, 512, 3, 3)).quantize
    assert policy.decide("decoder.middle.0.residual.2", (384, 384, 3, 3, 3)).quantize
    for name in (
        "decoder.conv_in",
        "decoder.conv_out",
        "post_quant_conv",
        "decoder.up.0.block.1.norm1",
        "decoder.head.2",
    ):
        assert not policy.decide(name, (512, 512, 3, 3)).quantize, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"component": "unet"}, "component 'unet' is unknown"),
        ({"family": "flux9"}, "family 'flux9' is unknown; choose one of flux2"),
        ({"keep": "("}, "is not a regular expression"),
    ],
    ids=str,
)
def test_unknown_names_are_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(Refused, match=re.escape(message)):
        decide("q", (64, 64), FP8, ROW, **arguments)


RULES: list[Rule] = [r for rules in GENERIC.values() for r in rules] + [r for f in FAMILIES.values() for r in f.rules]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pattern)
def test_every_rule_has_a_reason_and_a_pattern_that_compiles(rule: Rule) -> None:
    assert re.compile(rule.pattern)
    assert rule.reason


def test_names_lose_the_prefixes_of_loaders_only() -> None:
    assert bare_name("model.diffusion_model.blocks.0.q.weight") == "blocks.0.q"
    assert bare_name("text_encoders.t5xxl.transformer.encoder.block.0.q") == "encoder.block.0.q"
    assert bare_name("transformer_blocks.0.q") == "transformer_blocks.0.q"
