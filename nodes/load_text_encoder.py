"""Load FP8 Text Encoder: any dialect, as CLIP."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from ..quant.files.sets import stamps_of
from ..quant.kernels.mode import FAMILIES, UPCAST, Mode
from .host.load import DEVICES, load_text_encoder
from .host.machine import encoder_types
from .host.plan import load_report
from .inputs import CATEGORY, NONE
from .panel.runs import remember

WHY = (
    "upcast: each layer is dequantized as it is used, because conditioning is made once a prompt and its error is in "
    "every step."
)


def encoder_paths(text_encoder: str, text_encoder_2: str) -> tuple[str, ...]:
    names = [name for name in (text_encoder, text_encoder_2) if name != NONE]
    return tuple(folder_paths.get_full_path_or_raise("text_encoders", name) for name in names)


class LoadFP8TextEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = folder_paths.get_filename_list("text_encoders")
        return io.Schema(
            node_id="LoadFP8TextEncoder",
            display_name="Load FP8 Text Encoder",
            category=CATEGORY,
            description="Loads one or two FP8 text encoders of any producer with their scales.",
            search_aliases=["fp8 clip", "fp8 t5", "fp8 text encoder", "scaled clip", "load clip fp8"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input("text_encoder", options=files, tooltip="The text encoder, quantized or not."),
                io.Combo.Input(
                    "text_encoder_2",
                    options=[NONE, *files],
                    default=NONE,
                    optional=True,
                    tooltip="A second one, for models that take two (FLUX.1: CLIP-L and T5).",
                ),
                io.Combo.Input("type", options=encoder_types(), tooltip="The model family, as in ComfyUI's Load CLIP."),
                io.Combo.Input(
                    "compute",
                    options=list(FAMILIES),
                    default=UPCAST.compute,
                    optional=True,
                    advanced=True,
                    tooltip=f"{WHY} auto, scaled_mm and int8: as in Load FP8 Checkpoint.",
                ),
                io.Combo.Input(
                    "device",
                    options=list(DEVICES),
                    default=DEVICES[0],
                    optional=True,
                    advanced=True,
                    tooltip="Where it runs, as in ComfyUI's Load CLIP: cpu keeps it out of the GPU's memory.",
                ),
            ],
            outputs=[
                io.Clip.Output(display_name="CLIP"),
                io.String.Output(display_name="report", tooltip="What the files are and how each layer runs."),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls,
        text_encoder: str,
        type: str,
        text_encoder_2: str = NONE,
        compute: str = UPCAST.compute,
        device: str = DEVICES[0],
    ) -> tuple:
        stamps = (stamps_of(Path(path)) for path in encoder_paths(text_encoder, text_encoder_2))
        return (type, compute, device, *stamps)

    @classmethod
    def execute(
        cls,
        text_encoder: str,
        type: str,
        text_encoder_2: str = NONE,
        compute: str = UPCAST.compute,
        device: str = DEVICES[0],
    ) -> io.NodeOutput:
        mode = Mode(compute)
        clip, verdicts = load_text_encoder(encoder_paths(text_encoder, text_encoder_2), type, mode, device)
        remember(cls, clip, f"text_encoders/{text_encoder}")
        why = f"{WHY}\n" if mode == UPCAST else ""
        return io.NodeOutput(clip, f"{why}{load_report(clip.patcher, verdicts)}")
