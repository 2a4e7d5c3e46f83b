"""Save Calibration: what a watching model has seen, as a file and for Quantize Model."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from .host.calibrations import matter, save_watched
from .inputs import CATEGORY, CalibrationType


class SaveCalibration(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveCalibration",
            display_name="Save Calibration",
            category=CATEGORY,
            description="Adds what Calibrate Model has seen since the last time to its file below models/scaled_fp8.",
            search_aliases=["save calibration", "calibration file", "gptq"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of Calibrate Model."),
                io.AnyType.Input(
                    "after", optional=True, tooltip="Connect the sampler's LATENT, so that this runs behind it."
                ),
            ],
            outputs=[
                CalibrationType.Output(display_name="CALIBRATION", tooltip="For Quantize Model."),
                io.String.Output(display_name="report", tooltip="How many steps and layers it knows."),
            ],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, after: Any = None) -> io.NodeOutput:
        found, watch = save_watched(model)
        text = f"{found.source.name}: {found.facts.line()}, {len(found)} layers; {watch.blocks}; {matter(found)}"
        return io.NodeOutput(found, text, ui={"text": [text]})
