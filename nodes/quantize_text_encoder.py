"""Quantize Text Encoder: a CLIP in less memory"""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..quant.recipes.methods import METHODS
from .host.quantize import Recipe, quantize_report, quantize_text_encoder
from .inputs import CATEGORY, FollowsSettings, quantize_inputs
from .panel.runs import remember


class QuantizeTextEncoder(FollowsSettings):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QuantizeTextEncoder",
            display_name="Quantize Text Encoder",
            category=CATEGORY,
            description="Quantizes the text encoders of a CLIP in a copy; the CLIP given stays as it is.",
            search_aliases=["quantize clip", "fp8 t5", "int8 text encoder", "smaller clip"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder to quantize, in any precision."),
                *quantize_inputs(list(METHODS), "auto"),
            ],
            outputs=[
                io.Clip.Output(display_name="CLIP"),
                io.String.Output(display_name="report", tooltip="What was quantized, kept and why; what runs where."),
            ],
        )

    @classmethod
    def execute(cls, clip: io.Clip.Type, method: str, granularity: str, keep: str) -> io.NodeOutput:
        recipe = Recipe(method, granularity, keep, "encoder")
        quantized, stats = quantize_text_encoder(clip, recipe)
        remember(cls, quantized, stats=stats)
        return io.NodeOutput(quantized, quantize_report(quantized, recipe, stats))
