"""Small builds of models that make sound, three dimensions and depth."""

from __future__ import annotations

from .small import Small

# fmt: off
STABLE_AUDIO = {
    "audio_model": "dit1.0", "global_cond_dim": 128, "project_cond_tokens": False, "embed_dim": 128, "num_heads": 2,
    "depth": 2, "io_channels": 64, "cond_token_dim": 64, "timestep_features_type": "learned",
}
HUNYUAN3D = {
    "image_model": "hunyuan3d2", "in_channels": 64, "context_in_dim": 64, "hidden_size": 256, "mlp_ratio": 4.0,
    "num_heads": 4, "qkv_bias": True, "guidance_embed": False,
}
VOXELS = {"x": (1, 32, 64, 1), "trellis2_coords": "grid:4"}

SOUNDS_AND_SHAPES = {
    "StableAudio": Small(STABLE_AUDIO | {"input_concat_dim": 0}, (1, 64, 16), more={"global_embed": (1, 128)}),
    "StableAudio3": Small(STABLE_AUDIO | {
        "input_concat_dim": 65, "global_cond_shared_embed": True, "global_cond_type": "adaLN",
        "attn_kwargs": {"qk_norm": "rms", "differential": False}, "norm_type": "rms_norm", "local_add_cond_dim": 32,
    }, (1, 64, 16), more={"input_concat_cond": (1, 65, 16), "global_embed": (1, 128), "local_add_cond": (1, 32, 16)}),
    "Hunyuan3Dv2": Small(HUNYUAN3D | {"depth": 2, "depth_single_blocks": 2}, (1, 64, 16)),
    "Hunyuan3Dv2mini": Small(HUNYUAN3D | {"depth": 8, "depth_single_blocks": 1}, (1, 64, 16)),
    "Hunyuan3Dv2_1": Small({
        "image_model": "hunyuan3d2_1", "in_channels": 64, "context_dim": 64, "hidden_size": 256, "mlp_ratio": 4.0,
        "num_heads": 4, "depth": 4, "qkv_bias": False, "guidance_cond_proj_dim": None, "num_moe_layers": 2,
        "num_experts": 4,
    }, (2, 64, 16), (2, 8, 64)),
    "TripoSplat": Small({
        "image_model": "triposplat", "q_token_length": 32, "model_channels": 128, "cond_channels": 64, "num_blocks": 1,
        "num_refiner_blocks": 1, "cond2_channels": 64,
    }, [(1, 32, 16), (1, 1, 5)]),
    "Trellis2": Small({
        "image_model": "trellis2", "resolution": 32, "init_txt_model": False, "txt_only": False, "model_channels": 128,
        "cond_channels": 64, "num_blocks": 1, "num_heads": 2,
    }, (1, 32, 16, 16, 16), more={"embeds": (1, 8, 64)}, also=(
        VOXELS | {"trellis2_generation_mode": "shape_generation_512"},
        VOXELS | {"trellis2_generation_mode": "shape_generation"},
    )),
    "ACEStep": Small({
        "audio_model": "ace", "attention_head_dim": 32, "in_channels": 8, "inner_dim": 128, "max_height": 16,
        "max_position": 512, "max_width": 512, "mlp_ratio": 2.5, "num_attention_heads": 4, "num_layers": 2,
        "out_channels": 8, "patch_size": [16, 1], "rope_theta": 1000000.0, "speaker_embedding_dim": 64,
        "text_embedding_dim": 64, "ssl_encoder_depths": [1, 1], "ssl_latent_dims": [64, 64],
        "ssl_names": ["mert", "m-hubert"], "lyric_encoder_vocab_size": 100, "lyric_hidden_size": 1024,
    }, (1, 8, 16, 16), more={"lyric_token_idx": "zeros:1,4", "speaker_embeds": (1, 64)}),
    "ACEStep15": Small({
        "audio_model": "ace1.5", "hidden_size": 256, "intermediate_size": 256, "num_heads": 2,
        "encoder_hidden_size": 256, "encoder_num_heads": 2, "encoder_intermediate_size": 256, "num_dit_layers": 2,
        "num_kv_heads": 1, "text_hidden_dim": 64, "num_lyric_layers": 1, "num_timbre_layers": 1,
        "num_tokenizer_layers": 1, "fsq_dim": 256,
    }, (1, 64, 20), more={"lyric_embed": (1, 4, 64), "refer_audio": (1, 64, 750), "is_covers": None}),
    "DepthAnything3": Small({
        "image_model": "DepthAnything3", "backbone_name": "vits", "alt_start": -1, "rope_start": -1, "qknorm_start": -1,
        "cat_token": False, "head_dim_in": 384, "head_features": 64, "head_out_channels": [48, 96, 192, 384],
        "head_type": "dpt", "head_output_dim": 1, "head_use_sky_head": False, "out_layers": [5, 7, 9, 11],
        "has_cam_enc": False, "has_cam_dec": False,
    }, (1, 3, 56, 56), None),
}
