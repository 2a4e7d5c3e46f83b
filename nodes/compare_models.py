"""Compare Models: two models from the same noise, what differs, what it costs and where it comes from."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..quant.quality.gate import report_text
from .host.compare import ATTRIBUTE, Comparison, write_report
from .host.sampling import SAMPLERS, SCHEDULERS, Request
from .inputs import CATEGORY
from .panel.runs import remember


class CompareModels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompareModels",
            display_name="Compare Models",
            category=CATEGORY,
            description="Samples two models from the same noise and tells how far apart they are: latents, pictures, "
            "layers, time and memory.",
            search_aliases=["compare models", "a/b test", "psnr", "ssim", "quality", "difference", "benchmark"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model_a", tooltip="The model to compare with, mostly the one in high precision."),
                io.Model.Input("model_b", tooltip="The other one, of the same architecture."),
                io.Conditioning.Input("positive", tooltip="As of KSampler."),
                io.Conditioning.Input("negative", tooltip="As of KSampler."),
                io.Latent.Input("latent", tooltip="Where sampling starts, mostly an empty latent."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the first noise; each further one has the next seed.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="As of KSampler."),
                io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="As of KSampler."),
                io.Combo.Input("sampler_name", options=SAMPLERS, tooltip="As of KSampler."),
                io.Combo.Input("scheduler", options=SCHEDULERS, tooltip="As of KSampler."),
                io.Int.Input(
                    "images",
                    default=1,
                    min=1,
                    max=256,
                    tooltip="How many seeds are sampled; figures are over all of them.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Without it there are no pictures, PSNR or SSIM."),
                io.Combo.Input(
                    "attribute",
                    options=list(ATTRIBUTE),
                    default="auto",
                    optional=True,
                    tooltip="Whether to tell each layer's own error, which samples model_a once more. "
                    "auto: where the result is noise.",
                ),
            ],
            outputs=[
                io.Image.Output("image_a", display_name="a", tooltip="What model_a makes; nothing without a VAE."),
                io.Image.Output("image_b", display_name="b", tooltip="What model_b makes."),
                io.Image.Output(
                    "image_difference",
                    display_name="difference",
                    tooltip="Their difference, enlarged as far as nothing is clipped; the report says how much.",
                ),
                io.String.Output("report", display_name="report", tooltip="Figures, for people and Require Quality."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model_a: io.Model.Type,
        model_b: io.Model.Type,
        positive: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        latent: io.Latent.Type,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        images: int,
        vae: Any = None,
        attribute: str = "auto",
    ) -> io.NodeOutput:
        request = Request(positive, negative, latent, seed, steps, cfg, sampler_name, scheduler)
        found = Comparison(model_a, model_b, request, images, vae, attribute).run()
        files = write_report(found)
        remember(cls, model_b, page=files[0])
        pictures = found.pictures or (None, None, None)
        shown = {"text": [found.quality.totals()], "scaled_fp8_report": files}
        return io.NodeOutput(*pictures, report_text(found.quality), ui=shown)
