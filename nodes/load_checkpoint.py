"""Load FP8 Checkpoint: any dialect, as MODEL, CLIP and VAE."""

from __future__ import annotations

from pathlib import Path

from comfy_api.v0_0_2 import io

from ..quant.files.sets import stamps_of
from ..quant.kernels.mode import Mode
from .host.load import load_checkpoint, load_diffusion_model
from .host.plan import load_report
from .inputs import CATEGORY, activation_scale_input, compute_input, model_files, model_path
from .panel.runs import remember_parts


class LoadFP8Checkpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadFP8Checkpoint",
            display_name="Load FP8 Checkpoint",
            category=CATEGORY,
            description="Loads an FP8 checkpoint of any producer with its scales, or says in one sentence why not.",
            search_aliases=["fp8", "scaled fp8", "float8", "e4m3", "ltx fp8", "quantized checkpoint", "load fp8"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=model_files(),
                    tooltip="A diffusion model or an all-in-one checkpoint, quantized or not.",
                ),
                compute_input(),
                activation_scale_input(),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL"),
                io.Clip.Output(display_name="CLIP", tooltip="None where the file holds no text encoder."),
                io.Vae.Output(display_name="VAE", tooltip="None where the file holds no VAE."),
                io.String.Output(display_name="report", tooltip="What the file is, what each layer runs on."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, **settings: str) -> tuple:
        return (checkpoint, stamps_of(Path(model_path(checkpoint))), *settings.values())

    @classmethod
    def execute(cls, checkpoint: str, compute: str, activation_scale: str) -> io.NodeOutput:
        path, mode = model_path(checkpoint), Mode(compute, activation_scale)
        if checkpoint.startswith("checkpoints/"):
            model, clip, vae = load_checkpoint(path, mode)
        else:
            model, clip, vae = load_diffusion_model(path, mode), None, None
        remember_parts(cls, (vae, clip, model), checkpoint)
        report = load_report(model, [model.get_attachment("scaled_fp8_verdict")])
        return io.NodeOutput(model, clip, vae, report)
