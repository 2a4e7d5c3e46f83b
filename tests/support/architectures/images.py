"""Small builds of transformers that make images."""

from __future__ import annotations

from .small import Small

# fmt: off
DOUBLE_STREAM = {
    "axes_dim": [16, 56, 56], "num_heads": 2, "mlp_ratio": 4.0, "theta": 10000, "qkv_bias": True, "txt_ids_dims": [],
    "hidden_size": 256, "context_in_dim": 64, "patch_size": 2, "depth": 1, "depth_single_blocks": 1,
}
FLUX = DOUBLE_STREAM | {
    "image_model": "flux", "out_channels": 16, "in_channels": 16, "vec_in_dim": 32, "guidance_embed": False,
    "yak_mlp": False, "txt_norm": False,
}
CHROMA = DOUBLE_STREAM | {"vec_in_dim": None, "in_dim": 64, "out_dim": 256, "hidden_dim": 256, "n_layers": 2}
PIXART = {
    "num_heads": 4, "patch_size": 2, "in_channels": 4, "depth": 2, "input_size": 64, "pe_interpolation": 1,
    "caption_channels": 64,
}
HUNYUAN_DIT = {
    "depth": 4, "hidden_size": 256, "num_heads": 4, "text_states_dim": 64, "text_states_dim_t5": 64, "text_len_t5": 16,
}
HUNYUAN_DIT_TEXT = {
    "encoder_hidden_states_t5": (1, 16, 64), "text_embedding_mask": "ones:1,77", "text_embedding_mask_t5": "ones:1,16",
    "image_meta_size": (1, 6),
}
LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "cap_feat_dim": 64, "n_layers": 2,
    "n_refiner_layers": 1, "qk_norm": True, "n_heads": 4, "n_kv_heads": 4, "axes_dims": [32, 32, 32],
    "axes_lens": [300, 512, 512], "rope_theta": 10000.0, "ffn_dim_multiplier": 0.1, "multiple_of": 32,
}
PIXELS = {
    "num_groups": 4, "hidden_size": 256, "pixel_hidden_size": 16, "pixel_attn_hidden_size": 128, "pixel_num_groups": 2,
    "patch_depth": 2, "pixel_depth": 1, "txt_embed_dim": 64, "txt_max_length": 16,
}
KANDINSKY = {
    "image_model": "kandinsky5", "time_dim": 64, "ff_dim": 256, "num_text_blocks": 1, "num_visual_blocks": 1,
    "in_text_dim": 64, "in_text_dim2": 32,
}

IMAGES = {
    "Flux": Small(FLUX | {"guidance_embed": True}, more={"y": (1, 32), "guidance": (1,)}),
    "FluxSchnell": Small(FLUX, more={"y": (1, 32)}),
    "FluxInpaint": Small(FLUX | {
        "in_channels": 96, "guidance_embed": True,
    }, (1, 96, 8, 8), more={"y": (1, 32), "guidance": (1,)}),
    "LongCatImage": Small(FLUX | {
        "txt_ids_dims": [1, 2], "context_in_dim": 3584, "vec_in_dim": None,
    }, context=(1, 8, 3584)),
    "Flux2": Small(FLUX | {
        "image_model": "flux2", "axes_dim": [32, 32, 32, 32], "mlp_ratio": 3.0, "theta": 2000, "out_channels": 128,
        "qkv_bias": False, "txt_ids_dims": [3], "in_channels": 128, "patch_size": 1, "vec_in_dim": None,
        "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "default_ref_method": "index",
        "ref_index_scale": 10.0,
    }, (1, 128, 4, 4)),
    "Chroma": Small(CHROMA | {"image_model": "chroma", "out_channels": 64, "in_channels": 64}, more={"guidance": (1,)}),
    "ChromaRadiance": Small(CHROMA | {
        "image_model": "chroma_radiance", "out_channels": 3, "in_channels": 3, "patch_size": 16, "nerf_hidden_size": 16,
        "nerf_mlp_ratio": 4, "nerf_depth": 1, "nerf_max_freqs": 4, "nerf_tile_size": 512,
        "nerf_final_head_type": "linear", "nerf_embedder_dtype": None, "use_x0": False, "use_sequential_txt_ids": False,
    }, (1, 3, 32, 32), more={"guidance": (1,)}),
    "PixArtAlpha": Small(PIXART | {
        "image_model": "pixart_alpha", "hidden_size": 288, "model_max_length": 120, "micro_condition": True,
    }, (1, 4, 64, 64), more={"c_size": (1, 2), "c_ar": (1, 1)}),
    "PixArtSigma": Small(PIXART | {
        "image_model": "pixart_sigma", "hidden_size": 256, "model_max_length": 300, "micro_condition": False,
    }, (1, 4, 64, 64)),
    "HunyuanDiT": Small(HUNYUAN_DIT | {"image_model": "hydit"}, (1, 4, 8, 8), (1, 77, 64), HUNYUAN_DIT_TEXT),
    "HunyuanDiT1": Small(HUNYUAN_DIT | {
        "image_model": "hydit1", "size_cond": True, "use_style_cond": True,
    }, (1, 4, 8, 8), (1, 77, 64), HUNYUAN_DIT_TEXT | {"style": "zeros:1"}),
    "Lumina2": Small(LUMINA | {"dim": 192, "n_heads": 2, "n_kv_heads": 2}, more={"num_tokens": 8}),
    "ZImage": Small(LUMINA | {
        "dim": 512, "axes_dims": [32, 48, 48], "z_image_modulation": True, "time_scale": 1000.0,
        "pad_tokens_multiple": 32,
    }, more={"num_tokens": 8}),
    "ZImagePixelSpace": Small(LUMINA | {
        "image_model": "zimage_pixel", "patch_size": 4, "in_channels": 3, "dim": 384, "decoder_in_channels": 48,
        "decoder_hidden_size": 64, "decoder_num_res_blocks": 1, "decoder_max_freqs": 4, "z_image_modulation": True,
        "time_scale": 1000.0, "pad_tokens_multiple": 32,
    }, (1, 3, 16, 16), more={"num_tokens": 8}),
    "PixelDiTT2I": Small(PIXELS | {"image_model": "pixeldit_t2i"}, (1, 3, 32, 32)),
    "PiD": Small(PIXELS | {
        "image_model": "pid", "lq_hidden_dim": 64, "lq_interval": 1, "lq_latent_channels": 16,
        "latent_spatial_down_factor": 8, "lq_num_res_blocks": 1,
    }, (1, 3, 64, 64), more={"lq_latent": (1, 16, 2, 2), "degrade_sigma": (1,)}),
    "Kandinsky5": Small(KANDINSKY | {
        "model_dim": 256, "axes_dims": (16, 24, 24), "visual_embed_dim": 132,
    }, (1, 33, 1, 8, 8), more={"y": (1, 32)}),
    "Kandinsky5Image": Small(KANDINSKY | {
        "model_dim": 2560, "axes_dims": (32, 48, 48), "rope_scale_factor": (1.0, 1.0, 1.0), "visual_embed_dim": 64,
    }, (1, 16, 1, 8, 8), more={"y": (1, 32)}),
    "SD3": Small({
        "in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": 2, "input_size": None, "adm_in_channels": 2048,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128}},
        "num_patches": 64, "pos_embed_max_size": 8, "pos_embed_scaling_factor": None, "x_block_self_attn_layers": [0],
        "qk_norm": "rms",
    }, more={"y": (1, 2048)}),
    "AuraFlow": Small({
        "max_seq": 64, "cond_seq_dim": 2048, "n_double_layers": 1, "n_layers": 2, "dim": 256, "n_heads": 2,
        "global_conddim": 256,
    }, (1, 4, 8, 8), (1, 8, 2048)),
    "Lens": Small({
        "image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 2, "num_attention_heads": 4,
        "enc_hidden_dim": 64, "multi_layer_encoder_feature": True, "selected_layer_index": (0, 1),
    }, (1, 128, 4, 4), (1, 8, 128)),
    "HiDream": Small({
        "image_model": "hidream", "attention_head_dim": 128, "axes_dims_rope": [64, 32, 32],
        "caption_channels": [64, 64], "max_resolution": [128, 128], "in_channels": 16, "llama_layers": [0, 1],
        "num_attention_heads": 2, "num_routed_experts": 4, "num_activated_experts": 2, "num_layers": 1,
        "num_single_layers": 1, "out_channels": 16, "patch_size": 2, "text_emb_dim": 64,
    }, more={"y": (1, 64), "encoder_hidden_states_llama3": (1, 2, 8, 64)}),
    "HiDreamO1": Small({
        "image_model": "hidream_o1",
        "text_config_overrides": {
            "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 151700,
        },
        "vision_config_overrides": {
            "hidden_size": 64, "depth": 1, "num_heads": 2, "intermediate_size": 128, "out_hidden_size": 128,
        },
    }, (1, 3, 64, 64), None, t=600.0, conditioning={"text_input_ids": [[11, 12, 13, 14, 15, 151673]]}),
    "Omnigen2": Small({
        "image_model": "omnigen2", "axes_dim_rope": [16, 24, 24], "axes_lens": [1024, 1664, 1664],
        "ffn_dim_multiplier": None, "hidden_size": 256, "in_channels": 16, "multiple_of": 32, "norm_eps": 1e-05,
        "num_attention_heads": 4, "num_kv_heads": 2, "num_layers": 2, "num_refiner_layers": 1, "out_channels": None,
        "patch_size": 2, "text_feat_dim": 64, "timestep_scale": 1000.0,
    }, more={"num_tokens": 8, "attention_mask": None}),
    "Boogu": Small({
        "image_model": "boogu", "num_attention_heads": 4, "num_kv_heads": 2, "axes_dim_rope": (16, 24, 24),
        "hidden_size": 256, "num_layers": 1, "num_double_stream_layers": 1, "num_refiner_layers": 1,
        "instruction_feat_dim": 64,
    }, more={"num_tokens": 8, "attention_mask": None}),
    "MageFlow": Small({
        "image_model": "mage_flow", "in_channels": 128, "num_layers": 1, "num_attention_heads": 2,
    }, (1, 128, 4, 4), (1, 8, 2560)),
    "QwenImage": Small({
        "image_model": "qwen_image", "in_channels": 64, "num_layers": 2, "num_attention_heads": 2,
        "joint_attention_dim": 64,
    }, (1, 16, 1, 8, 8), more={"attention_mask": None}),
    "JoyImage": Small({
        "image_model": "joyimage", "in_channels": 16, "hidden_size": 256, "patch_size": [1, 2, 2], "num_layers": 1,
        "num_attention_heads": 2, "text_dim": 64, "theta": 10000, "rope_dim_list": [16, 56, 56],
    }, (1, 16, 1, 8, 8)),
    "Ideogram4": Small({
        "image_model": "ideogram4", "in_channels": 128, "num_layers": 2, "num_attention_heads": 2,
        "attention_head_dim": 128, "intermediate_size": 256, "adaln_dim": 64, "llm_features_dim": 64,
        "mrope_section": [24, 20, 20],
    }, (1, 128, 4, 4)),
    "Krea2": Small({
        "image_model": "krea2", "features": 256, "channels": 16, "patch": 2, "layers": 2, "heads": 2, "kvheads": 1,
        "txtlayers": 2, "txtdim": 128, "txtheads": 1, "txtkvheads": 1,
    }, context=(1, 8, 256)),
    "ErnieImage": Small({
        "image_model": "ernie", "hidden_size": 256, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 512,
        "text_in_dim": 64,
    }, (1, 128, 4, 4)),
}
