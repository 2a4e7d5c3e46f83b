"""Small builds of transformers that make videos."""

from __future__ import annotations

import json

from .small import Small

# fmt: off
CLIP_VISION = {"clip_fea": (1, 257, 1280)}
GLYPHS_AND_VISION = {"txt_byt5": (1, 4, 1472), "clip_fea": (1, 4, 1152)}
LTXV = {
    "num_attention_heads": 4, "attention_head_dim": 32, "cross_attention_dim": 128, "caption_channels": 64,
    "num_layers": 3,
}
LTXAV = LTXV | {
    "audio_num_attention_heads": 4, "audio_attention_head_dim": 16, "audio_cross_attention_dim": 64,
    "apply_gated_attention": True, "cross_attention_adaln": True, "caption_proj_before_connector": True,
    "connector_num_attention_heads": 2, "connector_attention_head_dim": 32, "connector_num_layers": 1,
    "audio_connector_attention_head_dim": 32,
}
WAN = {
    "image_model": "wan2.1", "dim": 256, "out_dim": 16, "num_heads": 2, "ffn_dim": 512, "num_layers": 2,
    "patch_size": (1, 2, 2), "freq_dim": 256, "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True,
    "eps": 1e-06, "text_dim": 64,
}
HUNYUAN_VIDEO = {
    "image_model": "hunyuan_video", "out_channels": 16, "vec_in_dim": None, "axes_dim": [16, 56, 56], "meanflow": False,
    "context_in_dim": 64, "hidden_size": 256, "mlp_ratio": 4.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
    "theta": 256, "qkv_bias": True, "byt5": False, "guidance_embed": False, "use_cond_type_embedding": False,
    "vision_in_dim": None, "meanflow_sum": False,
}
COSMOS = {
    "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16, "patch_spatial": 2,
    "patch_temporal": 1, "model_channels": 256, "concat_padding_mask": True, "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True, "pos_emb_interpolation": "crop", "use_adaln_lora": True, "adaln_lora_dim": 64,
    "num_blocks": 2, "num_heads": 2, "extra_per_block_abs_pos_emb": False, "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0, "rope_t_extrapolation_ratio": 1.0, "crossattn_emb_channels": 64,
}
COSMOS1 = COSMOS | {
    "image_model": "cosmos", "block_config": "FA-CA-MLP", "pos_emb_learnable": False, "block_x_format": "THWBD",
    "affline_emb_norm": True, "extra_per_block_abs_pos_emb": True, "rope_h_extrapolation_ratio": 1.0,
    "rope_w_extrapolation_ratio": 1.0, "rope_t_extrapolation_ratio": 2.0,
    "extra_per_block_abs_pos_emb_type": "learnable",
}
PREDICT2 = COSMOS | {
    "image_model": "cosmos_predict2", "min_fps": 1, "max_fps": 30, "extra_h_extrapolation_ratio": 1.0,
    "extra_w_extrapolation_ratio": 1.0, "extra_t_extrapolation_ratio": 1.0, "rope_enable_fps_modulation": False,
}
COGVIDEO = {
    "image_model": "cogvideox", "num_attention_heads": 2, "attention_head_dim": 64, "time_embed_dim": 64,
    "num_layers": 2, "patch_size": 2, "text_embed_dim": 64, "use_learned_positional_embeddings": False,
    "use_rotary_positional_embeddings": True, "out_channels": 16,
}

VIDEOS = {
    "WAN22_T2V": Small(WAN | {"out_dim": 48, "in_dim": 48, "model_type": "t2v"}, (1, 48, 1, 8, 8)),
    "WAN21_CausalAR_T2V": Small(WAN | {"in_dim": 16, "model_type": "t2v", "causal_ar": True}, (1, 16, 1, 8, 8)),
    "WAN21_T2V": Small(WAN | {"in_dim": 16, "model_type": "t2v"}, (1, 16, 1, 8, 8)),
    "WAN21_I2V": Small(WAN | {"in_dim": 36, "model_type": "i2v"}, (1, 36, 1, 8, 8), more=CLIP_VISION),
    "WAN21_FunControl2V": Small(WAN | {"in_dim": 48, "model_type": "i2v"}, (1, 48, 1, 8, 8), more=CLIP_VISION),
    "WAN21_Vace": Small(WAN | {
        "in_dim": 16, "model_type": "vace", "vace_layers": 1, "vace_in_dim": 96,
    }, (1, 16, 1, 8, 8), more={"vace_context": (1, 1, 96, 1, 8, 8), "vace_strength": [1.0]}),
    "WAN21_Camera": Small(WAN | {
        "in_dim": 32, "model_type": "camera",
    }, (1, 32, 1, 8, 8), more=CLIP_VISION | {"camera_conditions": (1, 24, 1, 64, 64)}),
    "WAN22_Camera": Small(WAN | {
        "in_dim": 36, "model_type": "camera_2.2",
    }, (1, 36, 1, 8, 8), more={"camera_conditions": (1, 24, 1, 64, 64)}),
    "WAN22_S2V": Small(WAN | {
        "in_dim": 16, "model_type": "s2v", "audio_inject_layers": [0, 1], "audio_dim": 64,
    }, (1, 16, 1, 8, 8), more={"audio_embed": (1, 25, 64, 4)}),
    "WAN21_HuMo": Small(WAN | {
        "in_dim": 36, "model_type": "humo",
    }, (1, 36, 1, 8, 8), more={"audio_embed": (1, 1, 8, 5, 1280)}),
    "WAN22_Animate": Small(WAN | {
        "num_layers": 6, "in_dim": 36, "model_type": "animate",
    }, (1, 36, 1, 8, 8), more=CLIP_VISION),
    "WAN_Animate2": Small(WAN | {"in_dim": 36, "model_type": "animate2"}, (1, 36, 1, 8, 8), more=CLIP_VISION),
    "WAN21_FlowRVS": Small(WAN | {"in_dim": 16, "model_type": "flow_rvs"}, (1, 16, 1, 8, 8)),
    "WAN21_SCAIL": Small(WAN | {
        "in_dim": 20, "model_type": "scail",
    }, (1, 20, 1, 8, 8), more=CLIP_VISION | {"pose_latents": (1, 20, 1, 4, 4)}),
    "WAN21_SCAIL2": Small(WAN | {"in_dim": 20, "model_type": "scail2"}, (1, 20, 1, 8, 8), more=CLIP_VISION),
    "WAN22_WanDancer": Small(WAN | {
        "in_dim": 36, "model_type": "wandancer", "audio_inject_layers": [0],
    }, (1, 36, 1, 8, 8), more=CLIP_VISION),
    "HunyuanVideo15_SR_Distilled": Small(HUNYUAN_VIDEO | {
        "in_channels": 98, "patch_size": [1, 1, 1], "meanflow": True, "byt5": True, "use_cond_type_embedding": True,
        "vision_in_dim": 1152, "meanflow_sum": True,
    }, (1, 98, 1, 4, 4), more=GLYPHS_AND_VISION, options={"sigmas": [0.6], "sample_sigmas": [0.6, 0.0]}),
    "HunyuanVideo15": Small(HUNYUAN_VIDEO | {
        "in_channels": 65, "patch_size": [1, 1, 1], "byt5": True, "use_cond_type_embedding": True,
        "vision_in_dim": 1152, "meanflow_sum": True,
    }, (1, 65, 1, 4, 4), more=GLYPHS_AND_VISION),
    "HunyuanImage21Refiner": Small(HUNYUAN_VIDEO | {
        "in_channels": 128, "patch_size": [1, 1, 1], "guidance_embed": True,
    }, (1, 128, 1, 4, 4), more={"guidance": (1,)}),
    "HunyuanImage21": Small(HUNYUAN_VIDEO | {
        "in_channels": 64, "patch_size": [1, 1], "axes_dim": [64, 64], "byt5": True,
    }, (1, 64, 4, 4), more={"txt_byt5": (1, 4, 1472)}),
    "HunyuanVideoSkyreelsI2V": Small(HUNYUAN_VIDEO | {
        "in_channels": 32, "patch_size": [1, 2, 2], "vec_in_dim": 768,
    }, (1, 32, 1, 8, 8), more={"y": (1, 768)}),
    "HunyuanVideoI2V": Small(HUNYUAN_VIDEO | {
        "in_channels": 33, "patch_size": [1, 2, 2], "vec_in_dim": 768,
    }, (1, 33, 1, 8, 8), more={"y": (1, 768)}),
    "HunyuanVideo": Small(HUNYUAN_VIDEO | {
        "in_channels": 16, "patch_size": [1, 2, 2], "vec_in_dim": 768, "guidance_embed": True,
    }, (1, 16, 1, 8, 8), more={"guidance": (1,), "y": (1, 768)}),
    "CosmosT2V": Small(COSMOS1, (1, 16, 1, 8, 8)),
    "CosmosI2V": Small(COSMOS1 | {"in_channels": 17}, (1, 17, 1, 8, 8)),
    "CosmosT2IPredict2": Small(PREDICT2, (1, 16, 1, 8, 8)),
    "CosmosI2VPredict2": Small(PREDICT2 | {"in_channels": 17}, (1, 17, 1, 8, 8)),
    "Anima": Small(PREDICT2 | {
        "image_model": "anima", "crossattn_emb_channels": 1024,
    }, (1, 16, 1, 8, 8), (1, 8, 1024), {"t5xxl_ids": "zeros:1,8", "t5xxl_weights": "fones:1,8,1"}),
    "CogVideoX_T2V": Small(COGVIDEO | {"in_channels": 16}, (1, 16, 1, 8, 8)),
    "CogVideoX_I2V": Small(COGVIDEO | {"in_channels": 32}, (1, 32, 1, 8, 8)),
    "CogVideoX_Inpaint": Small(COGVIDEO | {"in_channels": 48}, (1, 48, 1, 8, 8)),
    "GenmoMochi": Small({
        "image_model": "mochi_preview", "depth": 2, "patch_size": 2, "num_heads": 2, "hidden_size_x": 256,
        "hidden_size_y": 128, "mlp_ratio_x": 48.0, "mlp_ratio_y": 4.0, "learn_sigma": False, "in_channels": 12,
        "qk_norm": True, "qkv_bias": False, "out_bias": True, "attn_drop": 0.0, "patch_embed_bias": True,
        "posenc_preserve_area": True, "timestep_mlp_bias": True, "attend_to_padding": False, "timestep_scale": 1000.0,
        "use_t5": True, "t5_feat_dim": 64, "t5_token_length": 8, "rope_theta": 10000.0,
    }, (1, 12, 1, 8, 8), more={"attention_mask": "ones:1,8", "num_tokens": 8}),
    "MiniMaxH3": Small({
        "image_model": "minimax_h3", "num_layers": 2, "token_refiner_num_layers": 1, "hidden_size": 256,
        "latents_dim": 24, "audio_latents_dim": 32, "attention_head_dim": 128, "num_attention_heads": 2,
        "ffn_hidden_size": 512, "text_dim": 64, "timestep_input_dim": 256, "time_embed_hidden_size": 128,
        "time_embed_dim": 128, "rope_inv_freq_len": 16,
    }, [(1, 24, 1, 8, 8), (1, 32, 2, 4)], t=600.0),
    "SeedVR2": Small({
        "image_model": "seedvr2", "vid_dim": 256, "heads": 2, "num_layers": 36, "mm_layers": 10, "norm_eps": 1e-05,
        "rope_type": "rope3d", "rope_dim": 64, "mlp_type": "swiglu", "txt_in_dim": 64, "expand_ratio": 1,
    }, (1, 16, 1, 8, 8), more={"condition": (1, 17, 1, 8, 8)}, t=600.0, options={"cond_or_uncond": [0]}),
    "LTXV": Small(
        {"image_model": "ltxv", **LTXV}, (1, 128, 2, 4, 4), more={"attention_mask": None},
        metadata={"config": json.dumps({"transformer": LTXV})},
    ),
    "LTXAV": Small(
        {"image_model": "ltxav", **LTXAV}, [(1, 128, 2, 4, 4), (1, 8, 4, 16)], (1, 8, 192),
        metadata={"config": json.dumps({"transformer": LTXAV})},
    ),
}
