"""Quantize Model: a MODEL in less memory or on faster kernels, without leaving the graph."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..quant.recipes.methods import METHODS
from .host.plan import model_report
from .host.quantize import Recipe, needs, quantize_model
from .inputs import CATEGORY, FollowsSettings, quantize_inputs
from .panel.runs import remember


class QuantizeModel(FollowsSettings):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QuantizeModel",
            display_name="Quantize Model",
            category=CATEGORY,
            description="Quantizes a model in a copy, layer by layer; the model given stays as it is.",
            search_aliases=["quantize", "fp8 quantize", "int8", "int4", "nvfp4", "mxfp8", "smaller model"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The model to quantize; layers that are quantized already are left."),
                *quantize_inputs(list(METHODS), "auto"),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL"),
                io.String.Output(display_name="report", tooltip="What was quantized, kept and why; what runs where."),
            ],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, method: str, granularity: str, keep: str) -> io.NodeOutput:
        recipe = Recipe(method, granularity, keep)
        quantized, stats = quantize_model(model, recipe)
        remember(cls, quantized, stats=stats)
        report = (stats.table(), needs(quantized, recipe, stats), model_report(quantized).table())
        return io.NodeOutput(quantized, "\n\n".join(report))
