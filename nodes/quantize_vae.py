"""Quantize VAE: a VAE in less memory"""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .host.quantize import Recipe, quantize_report, quantize_vae
from .inputs import CATEGORY, FollowsSettings, quantize_inputs
from .panel.runs import remember


class QuantizeVAE(FollowsSettings):
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
            outputs=[
                io.Vae.Output(display_name="VAE"),
                io.String.Output(display_name="report", tooltip="What was quantized, kept and why; what runs where."),
            ],
        )

    @classmethod
    def execute(cls, vae: io.Vae.Type, method: str, granularity: str, keep: str) -> io.NodeOutput:
        recipe = Recipe(method, granularity, keep, "vae")
        quantized, stats = quantize_vae(vae, recipe)
        remember(cls, quantized, stats=stats)
        return io.NodeOutput(quantized, quantize_report(quantized, recipe, stats))
