"""Small builds of U-Nets: Stable Diffusion and its kin, Stable Cascade."""

from __future__ import annotations

from typing import Any

from .small import Small

# fmt: off
# transformer depths of the levels that stand for a model, where there are fewer in a small build
LEVELS = {1: 1, 2: 1, 4: 4}
UNET = {
    "image_size": 32, "model_channels": 64, "out_channels": 4, "transformer_depth_middle": -1,
    "use_spatial_transformer": True, "legacy": False, "use_checkpoint": False, "use_temporal_resblock": False,
    "use_temporal_attention": False,
}
VIDEO = {
    "extra_ff_mix_layer": True, "use_spatial_context": True, "merge_strategy": "learned_with_images",
    "merge_factor": 0.0, "video_kernel_size": [3, 1, 1], "use_temporal_resblock": True,
    "use_temporal_attention": True, "disable_temporal_crossattention": False,
}
# fmt: on


def sizes(depth: list[int], linear: bool, channels: int, adm: int | None) -> dict[str, Any]:
    levels = LEVELS[len(depth)]
    return UNET | {
        "in_channels": channels,
        "num_res_blocks": [len(depth) // levels] * levels,
        "channel_mult": [1] * levels,
        "transformer_depth": depth,
        "transformer_depth_output": [0] * (len(depth) + levels),
        "use_linear_in_transformer": linear,
        "context_dim": 128,
        "adm_in_channels": adm,
        **({"num_classes": "sequential"} if adm else {}),
    }


def sd(depth: list[int], linear: bool, channels: int = 4, adm: int | None = None, **given) -> Small:
    more = {"more": {"y": (1, adm)}} if adm else {}
    return Small(sizes(depth, linear, channels, adm), (1, channels, 16, 16), (1, 5, 128), t=400.0, **(more | given))


def video(adm: int) -> Small:
    more = {"y": (2, adm), "num_video_frames": 2, "image_only_indicator": (1, 2)}
    return Small(sizes([1], True, 8, adm) | VIDEO, (2, 8, 16, 16), (2, 1, 128), more, 400.0)


# fmt: off
UNETS = {
    "LotusD": sd([1], True, adm=4),
    "Stable_Zero123": sd([1], False, 8),
    "SD15_instructpix2pix": sd([1], False, 8),
    "SD15": sd([1], False),
    "SD20": sd([1], True),
    "SD21UnclipL": sd([1], True, adm=1536),
    "SD21UnclipH": sd([1], True, adm=2048),
    "SDXL_instructpix2pix": sd([0, 2], True, 8, 2816),
    "SDXLRefiner": sd([0, 1], True, adm=2560),
    "SDXL": sd([0, 2], True, adm=2816, extras=("v_pred", "ztsnr")),
    "SSD1B": sd([0, 1], True, adm=2816),
    "KOALA_700M": sd([1, 2], True, adm=2816),
    "KOALA_1B": sd([1, 1], True, adm=2816),
    "Segmind_Vega": sd([2, 1], True, adm=2816),
    "SD_X4Upscaler": sd([1, 1, 1, 1], True, 7, more={"y": "zeros:1"}),
    "SVD_img2vid": video(768),
    "SV3D_u": video(256),
    "SV3D_p": video(1280),
    "Stable_Cascade_C": Small({
        "stable_cascade_stage": "c", "c_cond": 128, "c_hidden": [128, 128], "nhead": [2, 2], "blocks": [[1, 1], [1, 1]],
        "block_repeat": [[1, 1], [1, 1]], "c_clip_text": 64, "c_clip_text_pooled": 64, "c_clip_img": 64,
    }, context=None, more={"clip_text": (1, 5, 64), "clip_text_pooled": (1, 1, 64), "clip_img": (1, 1, 64)}),
    "Stable_Cascade_B": Small({
        "stable_cascade_stage": "b", "c_cond": 128, "c_hidden": [32, 64, 128, 128], "nhead": [-1, -1, 2, 2],
        "blocks": [[1, 1, 1, 1], [1, 1, 1, 1]], "block_repeat": [[1, 1, 1, 1], [1, 1, 1, 1]], "c_clip": 64,
    }, (1, 4, 32, 32), None, {"effnet": (1, 16, 8, 8), "clip": (1, 1, 64)}),
}
