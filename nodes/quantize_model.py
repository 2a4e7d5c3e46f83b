"""Quantize Model: a MODEL in less memory or on faster kernels, without leaving the graph."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from ..quant.calibration.curve import Curve, draw_curve
from ..quant.calibration.planner import PlanRequest
from ..quant.calibration.store import Calibration
from ..quant.recipes.methods import BUDGET, METHODS
from .host.budget import quantize_for_budget
from .host.calibrations import newest
from .host.plan import model_report
from .host.quantize import DEFAULT, Recipe, quantize_model
from .inputs import CATEGORY, CalibrationType, QuantizeNode, quantize_inputs, quantize_outputs
from .panel.runs import remember

SEVEN = "7 bits"
# what says nothing of formats that ComfyUI core loads
UNUSED = (DEFAULT, "per-tensor")


class QuantizeModel(QuantizeNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QuantizeModel",
            display_name="Quantize Model",
            category=CATEGORY,
            description="Quantizes a model in a copy, layer by layer; the model given stays as it is.",
            search_aliases=["quantize", "fp8 quantize", "int8", "int4", "nvfp4", "mxfp8", "smaller model", "budget"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The model to quantize; layers that are quantized already are left."),
                *quantize_inputs([*METHODS, BUDGET.name], "auto"),
                io.String.Input(
                    "budget",
                    default=SEVEN,
                    optional=True,
                    tooltip="For method budget: bits a weight such as 7 bits, a size of the whole model such as 8 GB, "
                    "or a predicted error of the image such as error 0.02.",
                ),
                io.String.Input(
                    "formats",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="For method budget: the formats to choose from, by commas; without, nvfp4, int4, int8 and "
                    "float8_e4m3fn.",
                ),
                CalibrationType.Input(
                    "calibration",
                    optional=True,
                    tooltip="What the layers are fed: codes that lose less by it, and for method budget a better plan.",
                ),
            ],
            outputs=quantize_outputs(io.Model.Output(display_name="MODEL")),
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        method: str,
        granularity: str,
        keep: str,
        budget: str = SEVEN,
        formats: str = "",
        calibration: Calibration | None = None,
    ) -> io.NodeOutput:
        known = newest(calibration) if calibration else None
        if method == BUDGET.name:
            return cls.planned(model, PlanRequest(budget, tuple(formats.split(",")), keep), granularity, known)
        recipe = Recipe(method, granularity, keep, calibration=known)
        return cls.quantized(recipe, *quantize_model(model, recipe))

    @classmethod
    def planned(
        cls, model: io.Model.Type, request: PlanRequest, granularity: str, known: Calibration | None
    ) -> io.NodeOutput:
        quantized, stats, plan, notes = quantize_for_budget(model, request, known)
        remember(cls, quantized, stats=stats)
        unused = () if granularity in UNUSED else (f"granularity {granularity} is not used: formats have their own.",)
        report = (plan.table(), *notes, *unused, stats.table(), model_report(quantized).table())
        return io.NodeOutput(quantized, "\n\n".join(report), ui={"images": [shown(plan.curve)]})


def shown(curve: Curve) -> dict[str, str]:
    """The curve as a picture of the node; where, as the editor names it."""
    temporary = folder_paths.get_temp_directory()
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path("scaled_fp8_curve", temporary)
    path = Path(folder) / f"{name}_{counter:05}_.png"
    draw_curve(curve).save(path)
    return {"filename": path.name, "subfolder": subfolder, "type": "temp"}
