"""What each model family looks like and which of its layers stay in high precision: data, one entry each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """pattern: regular expression searched in a layer's name without its prefix; reason: for the report."""

    pattern: str
    reason: str
    keep: bool = True


@dataclass(frozen=True)
class Family:
    """One model family. signs: each a set of patterns that all match some name, any set will do; rules: first wins.

    name: as in settings and on the command line; tokens: rows of the largest activation for the latent that
    ComfyUI's own node for the family makes by default, None where that is TOKENS of the component.
    """

    name: str
    title: str
    component: str
    signs: tuple[tuple[str, ...], ...]
    rules: tuple[Rule, ...] = ()
    tokens: int | None = None


# An image of 1024 x 1024 by patches of 16 and 512 tokens of text; a prompt; the widest layers of a VAE, at half size.
TOKENS = {"transformer": 4608, "encoder": 512, "vae": 512 * 512}

NORM = r"(^|[._])(norm|layernorm|rmsnorm|ln)\d*($|[._])|norm$|_norm\d?$"
TIME = r"(^|[._])(t_embedder|time|timestep|guidance|vector|pooled)(_\w+)?[._]?(in|embed|embedder|embedding|proj)?($|\.)"

INPUT = "embeds the input"
OUTPUT = "makes the output: errors are seen as they are"
CONDITION = "embeds time or guidance: small, and its error reaches every layer"
TABLE = "embedding or head"

GENERIC: dict[str, tuple[Rule, ...]] = {
    "transformer": (
        Rule(NORM, "normalization"),
        Rule(r"modulation|adaln|ada_ln|adaLN|scale_shift", "modulation: its error reaches every token of a block"),
        Rule(TIME, CONDITION),
        Rule(r"^(img|txt|x|y|context|cap|text|patch\w*|pos|label|add)_?(in|embedder|embed|embedding|emb)\b", INPUT),
        Rule(r"^(patchify_proj|proj_in|conv_in|input_proj)\b", INPUT),
        Rule(r"^(final_layer|proj_out|norm_out|head|last|out|conv_out|output_proj)\b", OUTPUT),
        Rule(r"(^|\.)(lm_head|embed_tokens|shared)\b", TABLE),
        Rule(r"^cc_projection\b", "ComfyUI core builds it without scales"),
    ),
    "encoder": (
        Rule(NORM, "normalization"),
        Rule(r"(^|\.)(shared|embed_tokens|token_embedding|position_embedding|wte|lm_head|text_projection)$", TABLE),
        Rule(r"relative_attention_bias", "attention bias"),
        Rule(r"(^|\.)(visual|vision_model|vision_tower|multi_modal_projector|audio\w*)\.", "sees or hears: small"),
    ),
    "vae": (
        Rule(r"(^|\.)\w*norm\w*$", "normalization"),
        Rule(r"(^|\.)(conv_in|conv_out|quant_conv|post_quant_conv)$|^(conv1|conv2)$", "first or last layer of the VAE"),
        Rule(r"^(encoder|decoder)\.(conv1|head\.\d+)$", "first or last layer of the VAE"),
    ),
}  # fmt: skip

IN_AND_OUT = (
    Rule(r"^(img_in|txt_in|x_embedder|context_embedder)\b", INPUT),
    Rule(r"^(final_layer|norm_out|proj_out)\b", OUTPUT),
    Rule(r"^(time_in|time_r_in|guidance_in|vector_in|time_text_embed|time_embed|t_embedder|y_embedder)\b",
         CONDITION),
)  # fmt: skip
# A quarter of such a model is modulation inside the blocks; the published FP8 files have it in FP8.
BLOCK_MODULATION = Rule(
    r"^\w*blocks\.\d+\.(img_mod|txt_mod|modulation|norm1|norm1_context|norm)\.(lin|linear|1)$|^\w*blocks\.\d+\.\w+_block\.adaLN",
    "modulation inside a block: large, and its input is one vector",
    keep=False,
)
LANGUAGE = (
    Rule(r"(^|\.)layers\.0\.", "first language layer: activations with extreme outliers start here"),
    Rule(r"(^|\.)mtp\.|in_proj_[ab]$", "small and sensitive"),
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("flux2", "FLUX.2", "transformer", ((r"^double_stream_modulation_img\b",),), (
            Rule(r"^(double|single)_stream_modulation", "modulation shared by all blocks"), *IN_AND_OUT,
        )),
        Family("chroma", "Chroma", "transformer", ((r"^distilled_guidance_layer\b",),), (
            Rule(r"^distilled_guidance_layer\b", "makes the modulation of all blocks"),
            Rule(r"^nerf_", "pixel decoder of Chroma Radiance"), *IN_AND_OUT,
        )),
        Family("hunyuan_video", "HunyuanVideo 1 and 1.5", "transformer",
               ((r"^txt_in\.individual_token_refiner\b",), (r"^context_embedder\.token_refiner\b",)), (
            BLOCK_MODULATION,
            Rule(r"^(?!(double_blocks|single_blocks|transformer_blocks|single_transformer_blocks)\.)",
                 "outside of the blocks: published files keep it"),
        ), tokens=53 * 30 * 7),  # 848 x 480, 25 frames
        Family("flux1", "FLUX.1", "transformer",
               ((r"^double_blocks\.0\.img_mod\b", r"^single_blocks\.0\.linear1\b"),
                (r"^single_transformer_blocks\.0\.proj_mlp\b", r"^transformer_blocks\.0\.norm1_context\b")),
               (BLOCK_MODULATION, *IN_AND_OUT)),
        Family("wan", "Wan 2.x", "transformer",
               ((r"^time_projection\b", r"^blocks\.0\.cross_attn\.k\b"),
                (r"^condition_embedder\.time_proj\b", r"^blocks\.0\.attn2\.to_k\b")), (
            Rule(r"^(text_embedding|time_embedding|time_projection|condition_embedder)\b", "embeds time and text"),
            Rule(r"^(patch_embedding\w*|img_emb|pose_patch_embedding|ref_conv|control_adapter)\b", INPUT),
            Rule(r"^(head|proj_out)\b", OUTPUT),
            Rule(r"^(face_encoder|face_adapter|motion_encoder|audio_\w+|casual_audio_encoder|cond_encoder|frame_packer)\b",
                 "face, motion or audio part: small and sensitive"),
        ), tokens=52 * 30 * 21),  # 832 x 480, 81 frames
        Family("ltx2", "LTX-2 and 2.3", "transformer",
               ((r"^patchify_proj\b", r"^adaln_single\b"), (r"^audio_proj_in\b", r"^transformer_blocks\.0\.")), (
            Rule(r"^transformer_blocks\.(0|1|43|44|45|46|47)\.", "first or last blocks, as in the producer's files"),
            Rule(r"adaln|scale_shift|av_cross_attn_\w+|^time_embed", "modulation"),
            Rule(r"(^|\.)(audio_)?(patchify_proj|proj_out|proj_in)$", "first or last layer"),
            Rule(r"connector|caption_projection|text_embedding_projection", "connects text and audio"),
            Rule(r"to_gate_logits$", "gate of attention heads: small"),
            Rule(r"^(vae|vocoder|audio_vae)\.", "not part of the transformer"),
        ), tokens=24 * 16 * 13),  # 768 x 512, 97 frames
        Family("qwen_image", "Qwen-Image", "transformer",
               ((r"^transformer_blocks\.0\.img_mod\.1\b", r"^txt_norm\b"),), (
            Rule(r"^transformer_blocks\.0\.(img|txt)_mod\.1$", "modulation of the first block"),
            Rule(r"^transformer_blocks\.\d+\.(img|txt)_mod\.1$", "modulation inside a block: a third of the model",
                 keep=False),
            *IN_AND_OUT,
        )),
        Family("z_image", "Z-Image", "transformer", ((r"^cap_embedder\.1\b", r"^noise_refiner\.0\."),), (
            Rule(r"adaLN_modulation", "modulation"),
            Rule(r"^(x_embedder|all_x_embedder|cap_embedder|t_embedder|time_text_embed|clip_text_\w+)\b", INPUT),
            Rule(r"^(final_layer|all_final_layer)\b", OUTPUT),
        )),
        Family("krea2", "Krea 2", "transformer", ((r"^txtfusion\b", r"^tproj\b"),), (
            Rule(r"^(first|tmlp|tproj|txtmlp|txtfusion)\b", "embeds time, text or the input"),
            Rule(r"^last\b", OUTPUT),
        )),
        Family("sd35", "Stable Diffusion 3.5", "transformer",
               ((r"^joint_blocks\.0\.context_block\b",),
                (r"^pos_embed\.proj\b", r"^transformer_blocks\.0\.attn\.add_k_proj\b")),
               (BLOCK_MODULATION, *IN_AND_OUT)),
        Family("sdxl", "SDXL", "transformer",
               ((r"^label_emb\b", r"^input_blocks\.0\."), (r"^add_embedding\b", r"^mid_block\.")), (
            Rule(r"^(time_embed|time_embedding|label_emb|add_embedding)\b", "embeds time and size"),
            Rule(r"emb_layers|time_emb_proj", "time inside a block: small"),
            Rule(r"\.(proj_in|proj_out)$", "enters or leaves an attention stack"),
            Rule(r"^(out|conv_out|input_blocks\.0|conv_in)\b", "first or last layer"),
        )),
        Family("umt5", "UMT5", "encoder", ((r"encoder\.block\.1\.layer\.0\.SelfAttention\.relative_",),), (
            Rule(r"(^|\.)(shared|embed_tokens)$", "embedding"),
        )),
        Family("t5", "T5", "encoder", ((r"encoder\.block\.0\.layer\.0\.SelfAttention\b",),), (
            Rule(r"(^|\.)(shared|embed_tokens)$", "embedding"),
            Rule(r"(^|\.)decoder\.", "decoder: an encoder never runs it"),
        )),
        Family("gemma3", "Gemma 3", "encoder", ((r"(^|\.)layers\.0\.pre_feedforward_layernorm\b",),
                                                (r"(^|\.)layers\.0\.post_feedforward_layernorm\b",)), LANGUAGE),
        Family("qwen25_vl", "Qwen 2.5-VL", "encoder",
               ((r"(^|(?<!encoder)\.)layers\.0\.self_attn\.k_proj\.bias$",),), LANGUAGE),
        Family("qwen3", "Qwen 3", "encoder", ((r"(^|\.)layers\.0\.self_attn\.q_norm\b",),), LANGUAGE),
    )
}  # fmt: skip
