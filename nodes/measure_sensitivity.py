"""Measure Sensitivity: how much of each layer's error reaches the image."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .host.sensitivity import SAMPLERS, SCHEDULERS, Sampling, measure_sensitivity
from .inputs import CATEGORY, CalibrationType

GROUPS = ("layer", "block")


class MeasureSensitivity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MeasureSensitivity",
            display_name="Measure Sensitivity",
            category=CATEGORY,
            description="Samples once for each layer, disturbed: how much of its error does the image show?",
            search_aliases=["sensitivity", "calibration", "importance", "which layers matter"],
            inputs=[
                io.Model.Input("model", tooltip="The model in high precision."),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Latent.Input("latent", tooltip="What is sampled; a small one is enough."),
                io.Int.Input("steps", default=8, min=1, max=1000, tooltip="Of each run; a few are enough."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True),
                io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1, advanced=True),
                io.Combo.Input("sampler_name", options=SAMPLERS, default="euler", advanced=True),
                io.Combo.Input("scheduler", options=SCHEDULERS, default="simple", advanced=True),
                io.Combo.Input(
                    "groups",
                    options=list(GROUPS),
                    default=GROUPS[0],
                    advanced=True,
                    tooltip="layer: one run for each; block: one run for all layers of a block, for large models.",
                ),
            ],
            outputs=[
                CalibrationType.Output(display_name="CALIBRATION", tooltip="For Quantize Model."),
                io.String.Output(display_name="report", tooltip="How many runs it took, and where it is saved."),
            ],
        )

    @classmethod
    def execute(cls, model, positive, negative, latent, steps: int, seed: int, **how) -> io.NodeOutput:
        found, text = measure_sensitivity(model, Sampling(positive, negative, latent, steps, seed, **how))
        return io.NodeOutput(found, text)
