"""Measure Sensitivity: how much of each layer's error reaches the image."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy_api.v0_0_2 import io

from .host.calibrations import newest
from .host.sampling import SAMPLERS, SCHEDULERS, Request
from .host.sensitivity import measure_sensitivity
from .host.trial import Trial
from .inputs import CATEGORY, CalibrationType
from .panel.progress import say

AS_CORE = "As in KSampler."
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
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The model in high precision."),
                io.Conditioning.Input("positive", tooltip="What the image is to show."),
                io.Conditioning.Input("negative", tooltip="What it is not to show."),
                io.Latent.Input("latent", tooltip="What is sampled; a small one is enough."),
                io.Int.Input("steps", default=8, min=1, max=1000, tooltip="Of each run; a few are enough."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Of the noise; keep it to go on with a measurement that was stopped.",
                ),
                io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1, advanced=True, tooltip=AS_CORE),
                io.Combo.Input("sampler_name", options=SAMPLERS, default="euler", advanced=True, tooltip=AS_CORE),
                io.Combo.Input("scheduler", options=SCHEDULERS, default="simple", advanced=True, tooltip=AS_CORE),
                io.Combo.Input(
                    "groups",
                    options=list(GROUPS),
                    default=GROUPS[0],
                    advanced=True,
                    tooltip="layer: one run for each; block: one run for all layers of a block, for large models.",
                ),
                CalibrationType.Input(
                    "calibration",
                    optional=True,
                    tooltip="Of Save Calibration: the sensitivities are added to what it knows.",
                ),
            ],
            outputs=[
                CalibrationType.Output(display_name="CALIBRATION", tooltip="For Quantize Model."),
                io.String.Output(display_name="report", tooltip="How many runs it took, and where it is saved."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        positive: Any,
        negative: Any,
        latent: Any,
        steps: int,
        seed: int,
        calibration: Any = None,
        groups: str = "layer",
        **how: Any,
    ) -> io.NodeOutput:
        trial = Trial(Request(positive, negative, latent, seed, steps, **how), groups)
        before = newest(calibration) if calibration else None
        return io.NodeOutput(*measure_sensitivity(model, trial, before, partial(say, cls)))
