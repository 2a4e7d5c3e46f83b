"""FP8 Report: which kernel each layer ran on, as a picture, a table and files, also without a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy_api.v0_0_2 import io
from PIL import Image

from ..quant.quality.heatmap import draw_all
from ..quant.quality.sqnr import error_table, noise_sentence
from .host.parts import Part, patcher_of
from .host.quantize import warnings
from .inputs import CATEGORY
from .panel.runs import Run, run_of

PREFIX = "scaled_fp8/report"


class FP8Report(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FP8Report",
            display_name="FP8 Report",
            category=CATEGORY,
            description="Shows which kernel each layer of a model, text encoder or VAE runs on and why, and its error "
            "where a node measured it, as a heat map and a table.",
            search_aliases=["fp8 report", "heat map", "kernels", "what ran", "fp8 layers"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.MultiType.Input(
                    "model",
                    types=[io.Model, io.Clip, io.Vae],
                    tooltip="A MODEL, CLIP or VAE of this pack's loader, patch or quantizer.",
                ),
                io.AnyType.Input(
                    "after",
                    optional=True,
                    tooltip="Connect the sampler's LATENT, or anything else, to draw the report after it has run.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE",
                    tooltip="The heat map: blocks by layers, by kernel, and below by error where it was measured.",
                ),
                io.String.Output(display_name="table", tooltip="One line a layer: kernel, calls, reason."),
            ],
        )

    @classmethod
    def execute(cls, model: Part, after: Any = None) -> io.NodeOutput:
        run = run_of(model, str(cls.hidden.unique_id if cls.hidden else ""), "FP8Report")
        picture = draw_all(run.report(), run.errors)
        lines = filter(None, (headline(run), noise_sentence(run.errors)))
        shown = {"images": [saved(picture, run)], "text": ["\n".join(lines)]}
        return io.NodeOutput(as_image(picture), table_of(run, warnings(patcher_of(model))), ui=shown)


def table_of(run: Run, warnings: list[str]) -> str:
    """What is wrong, one line a layer, and the error of each where it is known."""
    errors = [error_table(run.errors)] if run.errors else []
    wrong = filter(None, (noise_sentence(run.errors), *warnings))
    return "\n".join((*wrong, "\n\n".join((run.report().table(), *errors))))


def headline(run: Run) -> str:
    """One line: layers by kernel, and how often they ran."""
    report = run.report()
    kernels = ", ".join(f"{count} {kernel}" for kernel, count in report.kernels.items())
    return f"{len(report.rows)} layers: {kernels or 'none is scaled'}; {run.summary()['calls']} calls on {run.device}"


def as_image(picture: Image.Image) -> torch.Tensor:
    """A PIL picture as IMAGE ``[1, height, width, 3]`` in [0, 1]."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).unsqueeze(0)


def saved(picture: Image.Image, run: Run) -> dict[str, str]:
    """Write PNG and JSON to the output folder; where, as the editor names it."""
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(PREFIX, folder_paths.get_output_directory())
    stem = Path(folder) / f"{name}_{counter:05}_"
    picture.save(stem.with_suffix(".png"), optimize=True)
    stem.with_suffix(".json").write_text(json.dumps(run.to_json(), indent=1), encoding="utf-8")
    return {"filename": f"{stem.name}.png", "subfolder": subfolder, "type": "output"}
