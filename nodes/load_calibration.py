"""Load Calibration: a calibration that was saved before."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .host.calibrations import calibrations, saved, stamp
from .inputs import CATEGORY, NONE, CalibrationType


class LoadCalibration(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadCalibration",
            display_name="Load Calibration",
            category=CATEGORY,
            description="A calibration that Save Calibration or Measure Sensitivity has written.",
            search_aliases=["load calibration", "calibration file"],
            inputs=[
                io.Combo.Input("name", options=calibrations() or [NONE], tooltip="A file below models/scaled_fp8.")
            ],
            outputs=[
                CalibrationType.Output(display_name="CALIBRATION", tooltip="For Quantize Model."),
                io.String.Output(display_name="report", tooltip="How many steps and layers it knows."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str) -> tuple[int, int] | None:
        return stamp(name)

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        found = saved(name)
        return io.NodeOutput(found, f"{found.source.name}: {found.facts.line()}, {len(found)} layers")
