"""Require Quality: the prompt fails where a comparison misses a limit, so that a headless workflow is a test."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..quant.quality.gate import require
from ..quant.quality.quality import METRICS
from .inputs import CATEGORY


class RequireQuality(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RequireQuality",
            display_name="Require Quality",
            category=CATEGORY,
            description="Fails in one sentence where a figure of Compare Models misses its limit.",
            search_aliases=["quality gate", "assert", "test", "ci", "limit", "psnr"],
            is_output_node=True,
            inputs=[
                io.String.Input("report", force_input=True, tooltip="The report of Compare Models."),
                io.Combo.Input(
                    "metric",
                    options=list(METRICS),
                    default="latent_error",
                    tooltip="Errors and LPIPS have to be at most the limit, PSNR, SSIM and SQNR at least.",
                ),
                io.Float.Input(
                    "limit",
                    default=0.05,
                    min=-1000.0,
                    max=1000.0,
                    step=0.001,
                    round=False,
                    tooltip="The figure that is just good enough; dB for PSNR and SQNR.",
                ),
            ],
            outputs=[io.String.Output("report", display_name="report", tooltip="The report as it came, if it holds.")],
        )

    @classmethod
    def execute(cls, report: str, metric: str, limit: float) -> io.NodeOutput:
        require(report, metric, limit)
        return io.NodeOutput(report, ui={"text": [f"{METRICS[metric].title} holds the limit of {limit:g}."]})
