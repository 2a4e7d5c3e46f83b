"""Quantize Text Encoder: a CLIP in less memory"""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..quant.recipes.methods import METHODS
from .host.quantize import Recipe, quantize_text_encoder
from .inputs import CATEGORY, QuantizeNode, quantize_inputs, quantize_outputs


class QuantizeTextEncoder(QuantizeNode):
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
            outputs=quantize_outputs(io.Clip.Output(display_name="CLIP")),
        )

    @classmethod
    def execute(cls, clip: io.Clip.Type, method: str, granularity: str, keep: str) -> io.NodeOutput:
        recipe = Recipe(method, granularity, keep, "encoder")
        return cls.quantized(recipe, *quantize_text_encoder(clip, recipe))
