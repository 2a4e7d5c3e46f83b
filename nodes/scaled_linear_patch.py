"""Scaled Linear Patch: run the FP8 layers of a loaded model right, with scales from its file if need be."""

from __future__ import annotations

from pathlib import Path

from comfy_api.v0_0_2 import io

from ..quant.files.sets import stamps_of
from ..quant.kernels.mode import Mode
from .host.patch import patch_model
from .host.plan import model_report
from .host.steps import steps_of, with_precise_steps
from .inputs import CATEGORY, NONE, activation_scale_input, compute_input, model_files, model_path
from .panel.runs import remember


class ScaledLinearPatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ScaledLinearPatch",
            display_name="Scaled Linear Patch",
            category=CATEGORY,
            description="Runs a loaded model's FP8 layers with their scales, also where its loader dropped them.",
            search_aliases=["fp8 patch", "scaled_mm", "fp8 noise", "fix fp8", "fp8 scales"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model"),
                compute_input(),
                activation_scale_input(),
                io.String.Input(
                    "layers",
                    default=".*",
                    advanced=True,
                    tooltip="Regular expression searched in the layer names; the others stay as they are.",
                ),
                io.Combo.Input(
                    "scales_from",
                    options=[NONE, *model_files()],
                    default=NONE,
                    tooltip="The file this model came from, if its loader dropped the scales and it makes noise.",
                ),
                io.String.Input(
                    "high_precision_steps",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Such as first 2, last 1: these steps do not round activations; slower, no second copy of "
                    "the weights.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL"),
                io.String.Output(display_name="report", tooltip="Which kernel each layer runs on, and why."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, scales_from: str, **settings: str) -> tuple:
        if scales_from == NONE:
            return ()
        return stamps_of(Path(model_path(scales_from)))

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        compute: str,
        activation_scale: str,
        layers: str,
        scales_from: str,
        high_precision_steps: str = "",
    ) -> io.NodeOutput:
        path, steps = None if scales_from == NONE else model_path(scales_from), steps_of(high_precision_steps)
        patched = patch_model(model, Mode(compute, activation_scale), layers, path)
        patched = with_precise_steps(patched, steps)
        remember(cls, patched, "" if scales_from == NONE else scales_from)
        note = f"Steps whose activations are not rounded: {steps}.\n\n" if str(steps) else ""
        return io.NodeOutput(patched, note + model_report(patched).table())
