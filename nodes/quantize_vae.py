"""Quantize VAE: a VAE in less memory"""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .host.quantize import Recipe, quantize_vae
from .inputs import CATEGORY, QuantizeNode, quantize_inputs, quantize_outputs


class QuantizeVAE(QuantizeNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QuantizeVAE",
            display_name="Quantize VAE",
            category=CATEGORY,
            description="Quantizes the convolutions of a VAE to INT8 in a copy, to save memory.",
            search_aliases=["quantize vae", "int8 vae", "smaller vae"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE to quantize, in any precision."),
                *quantize_inputs(["none", "int8"], "int8"),
            ],
            outputs=quantize_outputs(io.Vae.Output(display_name="VAE")),
        )

    @classmethod
    def execute(cls, vae: io.Vae.Type, method: str, granularity: str, keep: str) -> io.NodeOutput:
        recipe = Recipe(method, granularity, keep, "vae")
        return cls.quantized(recipe, *quantize_vae(vae, recipe))
