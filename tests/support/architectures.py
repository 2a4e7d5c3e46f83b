"""Small builds of ComfyUI's own architectures: the sizes each is built with, and what its forward is given.

``SMALL`` has one entry for each class of ``comfy.supported_models``; ``TOO_LARGE`` those whose sizes ComfyUI fixes,
with the reason. A class in neither is new: look at it and add it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Small:
    """unet: sizes, as ComfyUI's detection names them; x, context, more: shapes of what the forward is given.

    A list of shapes is for several parts; "ones:1,2", "zeros:1,2" and "fones:1,2" are constants. t: timestep; metadata:
    of the file; extras: empty tensors of the file that say how a model was trained; options: transformer options.
    """

    unet: dict[str, Any]
    x: Any = (1, 16, 8, 8)
    context: Any = (1, 8, 64)
    more: dict[str, Any] = field(default_factory=dict)
    t: float = 0.6
    metadata: dict[str, str] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def sd(depth, context=768, linear=True, inp=4, adm=None, **more):
    n = len(depth)
    levels = {1: 1, 2: 1, 3: 3, 4: 4, 6: 3, 8: 4}[n]
    per = n // levels
    c = {
        "image_size": 32,
        "in_channels": inp,
        "model_channels": 64,
        "out_channels": 4,
        "num_res_blocks": [per] * levels,
        "channel_mult": [1] * levels,
        "transformer_depth": depth,
        "transformer_depth_output": [0] * (n + levels),
        "transformer_depth_middle": -1,
        "use_linear_in_transformer": linear,
        "context_dim": context,
        "use_spatial_transformer": True,
        "legacy": False,
        "use_checkpoint": False,
        "adm_in_channels": adm,
        "use_temporal_resblock": False,
        "use_temporal_attention": False,
    }
    if adm:
        c["num_classes"] = "sequential"
    more_in = {"y": (1, adm)} if adm else {}
    return {"unet": c | more, "x": (1, inp, 16, 16), "context": (1, 5, context), "more": more_in, "t": 400.0}


def video(depth, adm):
    s = sd(
        depth,
        128,
        True,
        8,
        adm,
        extra_ff_mix_layer=True,
        use_spatial_context=True,
        merge_strategy="learned_with_images",
        merge_factor=0.0,
        video_kernel_size=[3, 1, 1],
        use_temporal_resblock=True,
        use_temporal_attention=True,
        disable_temporal_crossattention=False,
    )
    s["more"] = {"y": (2, adm), "num_video_frames": 2, "image_only_indicator": (1, 2)}
    s["x"] = (2, 8, 16, 16)
    s["context"] = (2, 1, 128)
    return s


def wan(model_type, in_dim=16, more=None, x=None, **u):
    unet = {
        "image_model": "wan2.1",
        "dim": 256,
        "out_dim": 16,
        "num_heads": 2,
        "ffn_dim": 512,
        "num_layers": 2,
        "patch_size": (1, 2, 2),
        "freq_dim": 256,
        "window_size": (-1, -1),
        "qk_norm": True,
        "cross_attn_norm": True,
        "eps": 1e-6,
        "in_dim": in_dim,
        "model_type": model_type,
        "text_dim": 64,
    } | u
    return Small(unet, x or (1, in_dim, 1, 8, 8), (1, 8, 64), more or {})


CLIPV = {"clip_fea": (1, 257, 1280)}


def hyvideo(in_channels=16, patch=(1, 2, 2), vec=768, x=None, more=None, options=None, **u):
    unet = {
        "image_model": "hunyuan_video",
        "in_channels": in_channels,
        "patch_size": list(patch),
        "out_channels": 16,
        "vec_in_dim": vec,
        "axes_dim": [16, 56, 56] if len(patch) == 3 else [64, 64],
        "meanflow": False,
        "context_in_dim": 64,
        "hidden_size": 256,
        "mlp_ratio": 4.0,
        "num_heads": 2,
        "depth": 1,
        "depth_single_blocks": 1,
        "theta": 256,
        "qkv_bias": True,
        "byt5": False,
        "guidance_embed": False,
        "use_cond_type_embedding": False,
        "vision_in_dim": None,
        "meanflow_sum": False,
    } | u
    m = dict(more or {})
    if vec:
        m["y"] = (1, vec)
    return Small(
        unet,
        x or ((1, in_channels, 1, 8, 8) if len(patch) == 3 else (1, in_channels, 8, 8)),
        (1, 8, 64),
        m,
        options=options or {},
    )


def flux(**u):
    return {
        "image_model": "flux",
        "axes_dim": [16, 56, 56],
        "num_heads": 2,
        "mlp_ratio": 4.0,
        "theta": 10000,
        "out_channels": 16,
        "qkv_bias": True,
        "txt_ids_dims": [],
        "in_channels": 16,
        "hidden_size": 256,
        "context_in_dim": 64,
        "patch_size": 2,
        "vec_in_dim": 32,
        "depth": 1,
        "depth_single_blocks": 1,
        "guidance_embed": True,
        "yak_mlp": False,
        "txt_norm": False,
    } | u


def cosmos2(model, in_channels):
    return {
        "image_model": model,
        "max_img_h": 240,
        "max_img_w": 240,
        "max_frames": 128,
        "in_channels": in_channels,
        "out_channels": 16,
        "patch_spatial": 2,
        "patch_temporal": 1,
        "model_channels": 256,
        "concat_padding_mask": True,
        "crossattn_emb_channels": 64 if model != "anima" else 1024,
        "pos_emb_cls": "rope3d",
        "pos_emb_learnable": True,
        "pos_emb_interpolation": "crop",
        "min_fps": 1,
        "max_fps": 30,
        "use_adaln_lora": True,
        "adaln_lora_dim": 64,
        "num_blocks": 2,
        "num_heads": 2,
        "extra_per_block_abs_pos_emb": False,
        "rope_h_extrapolation_ratio": 4.0,
        "rope_w_extrapolation_ratio": 4.0,
        "rope_t_extrapolation_ratio": 1.0,
        "extra_h_extrapolation_ratio": 1.0,
        "extra_w_extrapolation_ratio": 1.0,
        "extra_t_extrapolation_ratio": 1.0,
        "rope_enable_fps_modulation": False,
    }


def cosmos(in_channels):
    return {
        "image_model": "cosmos",
        "max_img_h": 240,
        "max_img_w": 240,
        "max_frames": 128,
        "in_channels": in_channels,
        "out_channels": 16,
        "patch_spatial": 2,
        "patch_temporal": 1,
        "model_channels": 256,
        "block_config": "FA-CA-MLP",
        "concat_padding_mask": True,
        "pos_emb_cls": "rope3d",
        "pos_emb_learnable": False,
        "pos_emb_interpolation": "crop",
        "block_x_format": "THWBD",
        "affline_emb_norm": True,
        "use_adaln_lora": True,
        "adaln_lora_dim": 64,
        "num_blocks": 2,
        "num_heads": 2,
        "extra_per_block_abs_pos_emb": True,
        "rope_h_extrapolation_ratio": 1.0,
        "rope_w_extrapolation_ratio": 1.0,
        "rope_t_extrapolation_ratio": 2.0,
        "extra_per_block_abs_pos_emb_type": "learnable",
        "crossattn_emb_channels": 64,
    }


def lumina(image_model, dim, **u):
    return {
        "image_model": image_model,
        "patch_size": 2,
        "in_channels": 16,
        "dim": dim,
        "cap_feat_dim": 64,
        "n_layers": 2,
        "n_refiner_layers": 1,
        "qk_norm": True,
        "n_heads": dim // 96,
        "n_kv_heads": dim // 96,
        "axes_dims": [32, 32, 32],
        "axes_lens": [300, 512, 512],
        "rope_theta": 10000.0,
        "ffn_dim_multiplier": 0.1,
        "multiple_of": 32,
    } | u


def chroma(**u):
    return {
        "image_model": "chroma",
        "axes_dim": [16, 56, 56],
        "num_heads": 2,
        "mlp_ratio": 4.0,
        "theta": 10000,
        "out_channels": 64,
        "qkv_bias": True,
        "txt_ids_dims": [],
        "in_channels": 64,
        "hidden_size": 256,
        "context_in_dim": 64,
        "patch_size": 2,
        "vec_in_dim": None,
        "depth": 1,
        "depth_single_blocks": 1,
        "in_dim": 64,
        "out_dim": 256,
        "hidden_dim": 256,
        "n_layers": 2,
    } | u


LTXV = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "cross_attention_dim": 128,
    "caption_channels": 64,
    "num_layers": 3,
}
LTXAV = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "cross_attention_dim": 128,
    "caption_channels": 64,
    "num_layers": 3,
    "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 64,
    "apply_gated_attention": True,
    "cross_attention_adaln": True,
    "caption_proj_before_connector": True,
    "connector_num_attention_heads": 2,
    "connector_attention_head_dim": 32,
    "connector_num_layers": 1,
    "audio_connector_attention_head_dim": 32,
}


def pixel(**u):
    return {
        "num_groups": 4,
        "hidden_size": 256,
        "pixel_hidden_size": 16,
        "pixel_attn_hidden_size": 128,
        "pixel_num_groups": 2,
        "patch_depth": 2,
        "pixel_depth": 1,
        "txt_embed_dim": 64,
        "txt_max_length": 16,
    } | u


def hunyuan3d(**u):
    return {
        "image_model": "hunyuan3d2",
        "in_channels": 64,
        "context_in_dim": 64,
        "hidden_size": 256,
        "mlp_ratio": 4.0,
        "num_heads": 4,
        "depth": 2,
        "depth_single_blocks": 2,
        "qkv_bias": True,
        "guidance_embed": False,
    } | u


def cog(inp, **u):
    return Small(
        {
            "image_model": "cogvideox",
            "num_attention_heads": 2,
            "attention_head_dim": 64,
            "time_embed_dim": 64,
            "num_layers": 2,
            "in_channels": inp,
            "patch_size": 2,
            "text_embed_dim": 64,
            "use_learned_positional_embeddings": False,
            "use_rotary_positional_embeddings": True,
            "out_channels": 16,
        }
        | u,
        (1, inp, 1, 8, 8),
    )


def omnigen(**u):
    return {
        "image_model": "omnigen2",
        "axes_dim_rope": [16, 24, 24],
        "axes_lens": [1024, 1664, 1664],
        "ffn_dim_multiplier": None,
        "hidden_size": 256,
        "in_channels": 16,
        "multiple_of": 32,
        "norm_eps": 1e-5,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "num_layers": 2,
        "num_refiner_layers": 1,
        "out_channels": None,
        "patch_size": 2,
        "text_feat_dim": 64,
        "timestep_scale": 1000.0,
    } | u


audio = {
    "audio_model": "dit1.0",
    "global_cond_dim": 128,
    "project_cond_tokens": False,
    "embed_dim": 128,
    "num_heads": 2,
    "depth": 2,
    "io_channels": 64,
    "input_concat_dim": 0,
    "cond_token_dim": 64,
    "timestep_features_type": "learned",
}

SMALL: dict[str, Small] = {
    "LotusD": Small(**sd([1], 128, True, 4, 4)),
    "Stable_Zero123": Small(**sd([1], 128, False, 8)),
    "SD15_instructpix2pix": Small(**sd([1], 128, False, 8)),
    "SD15": Small(**sd([1], 128, False, 4)),
    "SD20": Small(**sd([1], 128, True, 4)),
    "SD21UnclipL": Small(**sd([1], 128, True, 4, 1536)),
    "SD21UnclipH": Small(**sd([1], 128, True, 4, 2048)),
    "SDXL_instructpix2pix": Small(**sd([0, 2], 128, True, 8, 2816)),
    "SDXLRefiner": Small(**sd([0, 1], 128, True, 4, 2560)),
    "SDXL": Small(**sd([0, 2], 128, True, 4, 2816), extras=("v_pred", "ztsnr")),
    "SSD1B": Small(**sd([0, 1], 128, True, 4, 2816)),
    "KOALA_700M": Small(**sd([1, 2], 128, True, 4, 2816)),
    "KOALA_1B": Small(**sd([1, 1], 128, True, 4, 2816)),
    "Segmind_Vega": Small(**sd([2, 1], 128, True, 4, 2816)),
    "SD_X4Upscaler": Small(**{**sd([1, 1, 1, 1], 128, True, 7), "more": {"y": "zeros:1"}}),
    "SVD_img2vid": Small(**video([1], 768)),
    "SV3D_u": Small(**video([1], 256)),
    "SV3D_p": Small(**video([1], 1280)),
    "Stable_Cascade_C": Small(
        {
            "stable_cascade_stage": "c",
            "c_cond": 128,
            "c_hidden": [128, 128],
            "nhead": [2, 2],
            "blocks": [[1, 1], [1, 1]],
            "block_repeat": [[1, 1], [1, 1]],
            "c_clip_text": 64,
            "c_clip_text_pooled": 64,
            "c_clip_img": 64,
        },
        (1, 16, 8, 8),
        None,
        {"clip_text": (1, 5, 64), "clip_text_pooled": (1, 1, 64), "clip_img": (1, 1, 64)},
    ),
    "Stable_Cascade_B": Small(
        {
            "stable_cascade_stage": "b",
            "c_cond": 128,
            "c_hidden": [32, 64, 128, 128],
            "nhead": [-1, -1, 2, 2],
            "blocks": [[1, 1, 1, 1], [1, 1, 1, 1]],
            "block_repeat": [[1] * 4, [1] * 4],
            "c_clip": 64,
        },
        (1, 4, 32, 32),
        None,
        {"effnet": (1, 16, 8, 8), "clip": (1, 1, 64)},
    ),
    "SD3": Small(
        {
            "in_channels": 16,
            "patch_size": 2,
            "out_channels": 16,
            "depth": 2,
            "input_size": None,
            "adm_in_channels": 64,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 64, "out_features": 128},
            },
            "num_patches": 64,
            "pos_embed_max_size": 8,
            "pos_embed_scaling_factor": None,
            "x_block_self_attn_layers": [0],
            "qk_norm": "rms",
        },
        more={"y": (1, 64)},
    ),
    "StableAudio3": Small(
        audio
        | {
            "global_cond_shared_embed": True,
            "global_cond_type": "adaLN",
            "input_concat_dim": 65,
            "attn_kwargs": {"qk_norm": "rms", "differential": False},
            "norm_type": "rms_norm",
            "local_add_cond_dim": 32,
        },
        (1, 64, 16),
        more={"input_concat_cond": (1, 65, 16), "global_embed": (1, 128), "local_add_cond": (1, 32, 16)},
    ),
    "StableAudio": Small(audio, (1, 64, 16), more={"global_embed": (1, 128)}),
    "AuraFlow": Small(
        {
            "max_seq": 64,
            "cond_seq_dim": 2048,
            "n_double_layers": 1,
            "n_layers": 2,
            "dim": 256,
            "n_heads": 2,
            "global_conddim": 256,
        },
        (1, 4, 8, 8),
        (1, 8, 2048),
    ),
    "PixArtAlpha": Small(
        {
            "image_model": "pixart_alpha",
            "num_heads": 4,
            "patch_size": 2,
            "hidden_size": 256,
            "in_channels": 4,
            "depth": 2,
            "model_max_length": 120,
            "input_size": 64,
            "pe_interpolation": 1,
            "micro_condition": True,
            "caption_channels": 64,
        },
        (1, 4, 64, 64),
        more={"c_size": (1, 2), "c_ar": (1, 1)},
    ),
    "PixArtSigma": Small(
        {
            "image_model": "pixart_sigma",
            "num_heads": 4,
            "patch_size": 2,
            "hidden_size": 256,
            "in_channels": 4,
            "depth": 2,
            "model_max_length": 300,
            "input_size": 64,
            "pe_interpolation": 1,
            "micro_condition": False,
            "caption_channels": 64,
        },
        (1, 4, 64, 64),
    ),
    "HunyuanDiT": Small(
        {
            "image_model": "hydit",
            "depth": 4,
            "hidden_size": 256,
            "num_heads": 4,
            "text_states_dim": 64,
            "text_states_dim_t5": 64,
            "text_len_t5": 16,
        },
        (1, 4, 8, 8),
        (1, 77, 64),
        {
            "encoder_hidden_states_t5": (1, 16, 64),
            "text_embedding_mask": "ones:1,77",
            "text_embedding_mask_t5": "ones:1,16",
            "image_meta_size": (1, 6),
        },
    ),
    "HunyuanDiT1": Small(
        {
            "image_model": "hydit1",
            "depth": 4,
            "hidden_size": 256,
            "num_heads": 4,
            "text_states_dim": 64,
            "text_states_dim_t5": 64,
            "text_len_t5": 16,
            "size_cond": True,
            "use_style_cond": True,
        },
        (1, 4, 8, 8),
        (1, 77, 64),
        {
            "encoder_hidden_states_t5": (1, 16, 64),
            "text_embedding_mask": "ones:1,77",
            "text_embedding_mask_t5": "ones:1,16",
            "image_meta_size": (1, 6),
            "style": "zeros:1",
        },
    ),
    "FluxInpaint": Small(flux(in_channels=96), (1, 96, 8, 8), more={"y": (1, 32), "guidance": (1,)}),
    "Flux": Small(flux(), more={"y": (1, 32), "guidance": (1,)}),
    "LongCatImage": Small(
        flux(guidance_embed=False, vec_in_dim=None, context_in_dim=3584, txt_ids_dims=[1, 2]), context=(1, 8, 3584)
    ),
    "FluxSchnell": Small(flux(guidance_embed=False), more={"y": (1, 32)}),
    "Flux2": Small(
        flux(
            image_model="flux2",
            axes_dim=[32, 32, 32, 32],
            mlp_ratio=3.0,
            theta=2000,
            out_channels=128,
            in_channels=128,
            patch_size=1,
            global_modulation=True,
            mlp_silu_act=True,
            qkv_bias=False,
            ops_bias=False,
            default_ref_method="index",
            ref_index_scale=10.0,
            txt_ids_dims=[3],
            vec_in_dim=None,
            guidance_embed=False,
        ),
        (1, 128, 4, 4),
    ),
    "Lens": Small(
        {
            "image_model": "lens",
            "in_channels": 128,
            "out_channels": 32,
            "num_layers": 2,
            "num_attention_heads": 4,
            "enc_hidden_dim": 64,
            "multi_layer_encoder_feature": True,
            "selected_layer_index": (0, 1),
        },
        (1, 128, 4, 4),
        (1, 8, 128),
    ),
    "GenmoMochi": Small(
        {
            "image_model": "mochi_preview",
            "depth": 2,
            "patch_size": 2,
            "num_heads": 2,
            "hidden_size_x": 256,
            "hidden_size_y": 128,
            "mlp_ratio_x": 48.0,
            "mlp_ratio_y": 4.0,
            "learn_sigma": False,
            "in_channels": 12,
            "qk_norm": True,
            "qkv_bias": False,
            "out_bias": True,
            "attn_drop": 0.0,
            "patch_embed_bias": True,
            "posenc_preserve_area": True,
            "timestep_mlp_bias": True,
            "attend_to_padding": False,
            "timestep_scale": 1000.0,
            "use_t5": True,
            "t5_feat_dim": 64,
            "t5_token_length": 8,
            "rope_theta": 10000.0,
        },
        (1, 12, 1, 8, 8),
        more={"attention_mask": "ones:1,8", "num_tokens": 8},
    ),
    "LTXV": Small(
        {"image_model": "ltxv"} | LTXV,
        (1, 128, 2, 4, 4),
        more={"attention_mask": None},
        metadata={"config": json.dumps({"transformer": LTXV})},
    ),
    "LTXAV": Small(
        {"image_model": "ltxav"} | LTXAV,
        [(1, 128, 2, 4, 4), (1, 8, 4, 16)],
        (1, 8, 192),
        more={},
        metadata={"config": json.dumps({"transformer": LTXAV})},
    ),
    "MiniMaxH3": Small(
        {
            "image_model": "minimax_h3",
            "num_layers": 2,
            "token_refiner_num_layers": 1,
            "hidden_size": 256,
            "latents_dim": 24,
            "audio_latents_dim": 32,
            "attention_head_dim": 128,
            "num_attention_heads": 2,
            "ffn_hidden_size": 512,
            "text_dim": 64,
            "timestep_input_dim": 256,
            "time_embed_hidden_size": 128,
            "time_embed_dim": 128,
            "rope_inv_freq_len": 16,
        },
        [(1, 24, 1, 8, 8), (1, 32, 4)],
    ),
    "HunyuanVideo15_SR_Distilled": hyvideo(
        98,
        (1, 1, 1),
        None,
        vision_in_dim=1152,
        meanflow_sum=True,
        use_cond_type_embedding=True,
        byt5=True,
        meanflow=True,
        more={"txt_byt5": (1, 4, 1472), "clip_fea": (1, 4, 1152)},
        x=(1, 98, 1, 4, 4),
        options={"sigmas": [0.6], "sample_sigmas": [0.6, 0.0]},
    ),
    "HunyuanVideo15": hyvideo(
        65,
        (1, 1, 1),
        None,
        vision_in_dim=1152,
        meanflow_sum=True,
        use_cond_type_embedding=True,
        byt5=True,
        more={"txt_byt5": (1, 4, 1472), "clip_fea": (1, 4, 1152)},
        x=(1, 65, 1, 4, 4),
    ),
    "HunyuanImage21Refiner": hyvideo(
        128, (1, 1, 1), None, x=(1, 128, 1, 4, 4), guidance_embed=True, more={"guidance": (1,)}
    ),
    "HunyuanImage21": hyvideo(64, (1, 1), None, byt5=True, x=(1, 64, 4, 4), more={"txt_byt5": (1, 4, 1472)}),
    "HunyuanVideoSkyreelsI2V": hyvideo(32),
    "HunyuanVideoI2V": hyvideo(33),
    "HunyuanVideo": hyvideo(16, guidance_embed=True, more={"guidance": (1,)}),
    "CosmosT2V": Small(cosmos(16), (1, 16, 1, 8, 8)),
    "CosmosI2V": Small(cosmos(17), (1, 17, 1, 8, 8)),
    "CosmosT2IPredict2": Small(cosmos2("cosmos_predict2", 16), (1, 16, 1, 8, 8)),
    "CosmosI2VPredict2": Small(cosmos2("cosmos_predict2", 17), (1, 17, 1, 8, 8)),
    "Anima": Small(
        cosmos2("anima", 16),
        (1, 16, 1, 8, 8),
        (1, 8, 1024),
        more={"t5xxl_ids": "zeros:1,8", "t5xxl_weights": "fones:1,8,1"},
    ),
    "ZImagePixelSpace": Small(
        lumina(
            "zimage_pixel",
            384,
            patch_size=4,
            in_channels=3,
            decoder_in_channels=48,
            decoder_hidden_size=64,
            decoder_num_res_blocks=1,
            decoder_max_freqs=4,
            z_image_modulation=True,
            time_scale=1000.0,
            pad_tokens_multiple=32,
        ),
        (1, 3, 16, 16),
        more={"num_tokens": 8},
    ),
    "ZImage": Small(
        lumina(
            "lumina2",
            512,
            n_layers=2,
            z_image_modulation=True,
            time_scale=1000.0,
            pad_tokens_multiple=32,
            n_heads=4,
            n_kv_heads=4,
            axes_dims=[32, 48, 48],
        ),
        more={"num_tokens": 8},
    ),
    "Lumina2": Small(lumina("lumina2", 192), more={"num_tokens": 8}),
    "PiD": Small(
        pixel(
            image_model="pid",
            lq_hidden_dim=64,
            lq_interval=1,
            lq_latent_channels=16,
            latent_spatial_down_factor=8,
            lq_num_res_blocks=1,
        ),
        (1, 3, 64, 64),
        more={"lq_latent": (1, 16, 2, 2), "degrade_sigma": (1,)},
    ),
    "PixelDiTT2I": Small(pixel(image_model="pixeldit_t2i"), (1, 3, 32, 32)),
    "WAN22_T2V": wan("t2v", 48, out_dim=48, x=(1, 48, 1, 8, 8)),
    "WAN21_CausalAR_T2V": wan("t2v", 16, causal_ar=True),
    "WAN21_T2V": wan("t2v"),
    "WAN21_I2V": wan("i2v", 36, CLIPV),
    "WAN21_FunControl2V": wan("i2v", 48, CLIPV),
    "WAN21_Vace": wan(
        "vace", 16, {"vace_context": (1, 1, 96, 1, 8, 8), "vace_strength": [1.0]}, vace_layers=1, vace_in_dim=96
    ),
    "WAN21_Camera": wan("camera", 32, CLIPV | {"camera_conditions": (1, 24, 1, 64, 64)}),
    "WAN22_Camera": wan("camera_2.2", 36, {"camera_conditions": (1, 24, 1, 64, 64)}),
    "WAN22_S2V": wan("s2v", 16, {"audio_embed": (1, 25, 64, 4)}, audio_inject_layers=[0, 1], audio_dim=64),
    "WAN21_HuMo": wan("humo", 36, {"audio_embed": (1, 1, 8, 5, 1280)}),
    "WAN22_Animate": wan("animate", 36, CLIPV, num_layers=6),
    "WAN_Animate2": wan("animate2", 36, CLIPV),
    "WAN21_FlowRVS": wan("flow_rvs"),
    "WAN21_SCAIL": wan("scail", 20, CLIPV | {"pose_latents": (1, 20, 1, 4, 4)}),
    "WAN21_SCAIL2": wan("scail2", 20, CLIPV),
    "WAN22_WanDancer": wan("wandancer", 36, CLIPV, audio_inject_layers=[0]),
    "Hunyuan3Dv2mini": Small(hunyuan3d(depth=8, depth_single_blocks=1), (1, 64, 16), (1, 8, 64)),
    "Hunyuan3Dv2": Small(hunyuan3d(), (1, 64, 16), (1, 8, 64)),
    "Hunyuan3Dv2_1": Small(
        {
            "image_model": "hunyuan3d2_1",
            "in_channels": 64,
            "context_dim": 64,
            "hidden_size": 256,
            "mlp_ratio": 4.0,
            "num_heads": 4,
            "depth": 4,
            "qkv_bias": False,
            "guidance_cond_proj_dim": None,
            "num_moe_layers": 2,
            "num_experts": 4,
        },
        (2, 64, 16),
        (2, 8, 64),
    ),
    "TripoSplat": Small(
        {
            "image_model": "triposplat",
            "q_token_length": 32,
            "model_channels": 128,
            "cond_channels": 64,
            "num_blocks": 1,
            "num_refiner_blocks": 1,
            "cond2_channels": 64,
        },
        [(1, 32, 16), (1, 1, 5)],
        (1, 8, 64),
    ),
    "HiDream": Small(
        {
            "image_model": "hidream",
            "attention_head_dim": 128,
            "axes_dims_rope": [64, 32, 32],
            "caption_channels": [64, 64],
            "max_resolution": [128, 128],
            "in_channels": 16,
            "llama_layers": [0, 1],
            "num_attention_heads": 2,
            "num_routed_experts": 4,
            "num_activated_experts": 2,
            "num_layers": 1,
            "num_single_layers": 1,
            "out_channels": 16,
            "patch_size": 2,
            "text_emb_dim": 64,
        },
        (1, 16, 8, 8),
        more={"y": (1, 64), "encoder_hidden_states_llama3": (1, 2, 8, 64)},
    ),
    "HiDreamO1": Small(
        {
            "image_model": "hidream_o1",
            "text_config_overrides": {
                "hidden_size": 128,
                "intermediate_size": 256,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "vocab_size": 151700,
            },
            "vision_config_overrides": {
                "hidden_size": 64,
                "depth": 1,
                "num_heads": 2,
                "intermediate_size": 128,
                "out_hidden_size": 128,
            },
        },
        (1, 3, 64, 64),
        None,
    ),
    "Chroma": Small(chroma(), (1, 16, 8, 8), more={"guidance": (1,)}),
    "ChromaRadiance": Small(
        chroma(
            image_model="chroma_radiance",
            in_channels=3,
            out_channels=3,
            patch_size=16,
            nerf_hidden_size=16,
            nerf_mlp_ratio=4,
            nerf_depth=1,
            nerf_max_freqs=4,
            nerf_tile_size=512,
            nerf_final_head_type="linear",
            nerf_embedder_dtype=None,
            use_x0=False,
            use_sequential_txt_ids=False,
        ),
        (1, 3, 32, 32),
        more={"guidance": (1,)},
    ),
    "SeedVR2": Small(
        {
            "image_model": "seedvr2",
            "vid_dim": 256,
            "heads": 2,
            "num_layers": 36,
            "mm_layers": 10,
            "norm_eps": 1e-5,
            "rope_type": "rope3d",
            "rope_dim": 64,
            "mlp_type": "swiglu",
            "txt_in_dim": 64,
            "expand_ratio": 1,
        },
        (1, 33, 1, 8, 8),
        (1, 8, 64),
    ),
    "ACEStep": Small(
        {
            "audio_model": "ace",
            "attention_head_dim": 32,
            "in_channels": 8,
            "inner_dim": 128,
            "max_height": 16,
            "max_position": 512,
            "max_width": 512,
            "mlp_ratio": 2.5,
            "num_attention_heads": 4,
            "num_layers": 2,
            "out_channels": 8,
            "patch_size": [16, 1],
            "rope_theta": 1e6,
            "speaker_embedding_dim": 64,
            "text_embedding_dim": 64,
            "ssl_encoder_depths": [1, 1],
            "ssl_latent_dims": [64, 64],
            "ssl_names": ["mert", "m-hubert"],
            "lyric_encoder_vocab_size": 100,
            "lyric_hidden_size": 1024,
        },
        (1, 8, 16, 16),
        more={"lyric_token_idx": "zeros:1,4", "speaker_embeds": (1, 64)},
    ),
    "ACEStep15": Small(
        {
            "audio_model": "ace1.5",
            "hidden_size": 256,
            "intermediate_size": 256,
            "num_heads": 2,
            "encoder_hidden_size": 256,
            "encoder_num_heads": 2,
            "encoder_intermediate_size": 256,
            "num_dit_layers": 2,
            "num_kv_heads": 1,
            "text_hidden_dim": 64,
            "num_lyric_layers": 1,
            "num_timbre_layers": 1,
            "num_tokenizer_layers": 1,
            "fsq_dim": 256,
        },
        (1, 64, 20),
        more={"lyric_embed": (1, 4, 64), "refer_audio": (1, 64, 750), "is_covers": None},
    ),
    "Omnigen2": Small(omnigen(), more={"num_tokens": 8, "attention_mask": None}),
    "Boogu": Small(
        {
            "image_model": "boogu",
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "axes_dim_rope": (16, 24, 24),
            "hidden_size": 256,
            "num_layers": 1,
            "num_double_stream_layers": 1,
            "num_refiner_layers": 1,
            "instruction_feat_dim": 64,
        },
        more={"num_tokens": 8, "attention_mask": None},
    ),
    "MageFlow": Small(
        {"image_model": "mage_flow", "in_channels": 128, "num_layers": 1, "num_attention_heads": 2},
        (1, 128, 4, 4),
        (1, 8, 2560),
    ),
    "QwenImage": Small(
        {
            "image_model": "qwen_image",
            "in_channels": 64,
            "num_layers": 2,
            "num_attention_heads": 2,
            "joint_attention_dim": 64,
        },
        (1, 16, 1, 8, 8),
        more={"attention_mask": None},
    ),
    "JoyImage": Small(
        {
            "image_model": "joyimage",
            "in_channels": 16,
            "hidden_size": 256,
            "patch_size": [1, 2, 2],
            "num_layers": 1,
            "num_attention_heads": 2,
            "text_dim": 64,
            "theta": 10000,
            "rope_dim_list": [16, 56, 56],
        },
        (1, 16, 1, 8, 8),
    ),
    "Ideogram4": Small(
        {
            "image_model": "ideogram4",
            "in_channels": 128,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 128,
            "intermediate_size": 256,
            "adaln_dim": 64,
            "llm_features_dim": 64,
            "mrope_section": [24, 20, 20],
        },
        (1, 128, 4, 4),
    ),
    "Krea2": Small(
        {
            "image_model": "krea2",
            "features": 256,
            "channels": 16,
            "patch": 2,
            "layers": 2,
            "heads": 2,
            "kvheads": 1,
            "txtlayers": 2,
            "txtdim": 128,
            "txtheads": 1,
            "txtkvheads": 1,
        },
        context=(1, 8, 256),
    ),
    "Kandinsky5Image": Small(
        {
            "image_model": "kandinsky5",
            "model_dim": 2560,
            "axes_dims": (32, 48, 48),
            "rope_scale_factor": (1.0, 1.0, 1.0),
            "time_dim": 64,
            "ff_dim": 256,
            "visual_embed_dim": 64,
            "num_text_blocks": 1,
            "num_visual_blocks": 1,
            "in_text_dim": 64,
            "in_text_dim2": 32,
        },
        (1, 16, 1, 8, 8),
        more={"y": (1, 32)},
    ),
    "Kandinsky5": Small(
        {
            "image_model": "kandinsky5",
            "model_dim": 256,
            "axes_dims": (16, 24, 24),
            "time_dim": 64,
            "ff_dim": 256,
            "visual_embed_dim": 132,
            "num_text_blocks": 1,
            "num_visual_blocks": 1,
            "in_text_dim": 64,
            "in_text_dim2": 32,
        },
        (1, 33, 1, 8, 8),
        more={"y": (1, 32)},
    ),
    "ErnieImage": Small(
        {
            "image_model": "ernie",
            "hidden_size": 256,
            "num_attention_heads": 2,
            "num_layers": 2,
            "ffn_hidden_size": 512,
            "text_in_dim": 64,
        },
        (1, 128, 4, 4),
    ),
    "CogVideoX_Inpaint": cog(48),
    "CogVideoX_I2V": cog(32),
    "CogVideoX_T2V": cog(16),
    "Trellis2": Small(
        {
            "image_model": "trellis2",
            "resolution": 32,
            "init_txt_model": False,
            "txt_only": False,
            "model_channels": 128,
            "cond_channels": 64,
            "num_blocks": 1,
            "num_heads": 2,
        },
        (1, 32, 16),
    ),
    "DepthAnything3": Small(
        {
            "image_model": "DepthAnything3",
            "backbone_name": "vits",
            "alt_start": -1,
            "rope_start": -1,
            "qknorm_start": -1,
            "cat_token": False,
            "head_dim_in": 384,
            "head_features": 64,
            "head_out_channels": [48, 96, 192, 384],
            "head_type": "dpt",
            "head_output_dim": 1,
            "head_use_sky_head": False,
            "out_layers": [5, 7, 9, 11],
            "has_cam_enc": False,
            "has_cam_dec": False,
        },
        (1, 3, 56, 56),
        None,
    ),
}

# The forward of these wants more than the shapes above: their weights are compared only.
WEIGHTS_ONLY = ("HiDreamO1", "SeedVR2", "Trellis2", "PixArtAlpha", "MiniMaxH3", "DepthAnything3")

TOO_LARGE = {
    "MiniMaxMusic3": "2.5 billion parameters, whose sizes its constructor fixes",
    "SAM3": "its constructor takes no sizes",
    "SAM31": "its constructor takes no sizes",
    "RT_DETR_v4": "a detector of 30 million parameters, mostly convolutions; its sizes are fixed",
}
