"""Calibrate Model: a model that watches what its layers are fed while a workflow runs."""

from __future__ import annotations

from functools import partial

from comfy_api.v0_0_2 import io

from .host.calibrations import path_of
from .host.shares import measure_shares
from .host.watch import watching
from .inputs import CATEGORY


class CalibrateModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CalibrateModel",
            display_name="Calibrate Model",
            category=CATEGORY,
            description="Watches what a model's layers are fed while your workflow samples; images stay the same.",
            search_aliases=["calibrate", "calibration", "gptq", "importance", "imatrix", "activations"],
            inputs=[
                io.Model.Input("model", tooltip="The model in high precision; LoRAs may come before or after."),
                io.String.Input(
                    "name",
                    default="calibration",
                    tooltip="Of the file below models/scaled_fp8; runs of the same name add up.",
                ),
                io.Float.Input(
                    "memory_gb",
                    default=0.0,
                    min=0.0,
                    max=1024.0,
                    step=0.5,
                    advanced=True,
                    tooltip="The most system memory for what was seen; wide layers are kept in blocks above that. 0: "
                    "eight times the largest layer and 1.5 GB.",
                ),
                io.Boolean.Input(
                    "sensitivity",
                    default=True,
                    tooltip="Once, after the first sampling: two more of other noise, with a step more for each layer, "
                    "to see how much each layer matters.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="For the sampler, and for Save Calibration.")],
        )

    @classmethod
    def execute(
        cls, model: io.Model.Type, name: str, memory_gb: float = 0.0, sensitivity: bool = True
    ) -> io.NodeOutput:
        path = path_of(name)
        after = partial(measure_shares, path) if sensitivity else None
        return io.NodeOutput(watching(model, name, memory_gb, after))
