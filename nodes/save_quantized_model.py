"""Save Quantized Model: a file that ComfyUI loads without this pack."""

from __future__ import annotations

import json

from comfy_api.v0_0_2 import io

from .host.machine import writes_metadata
from .host.save import save_model
from .inputs import CATEGORY


class SaveQuantizedModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveQuantizedModel",
            display_name="Save Quantized Model",
            category=CATEGORY,
            description="Saves a quantized model as a file that plain ComfyUI loads, below the output folder.",
            search_aliases=["save fp8", "export quantized", "save quantized", "save model fp8"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Model.Input("model", tooltip="A quantized model; a LoRA applied to it is merged into the file."),
                io.String.Input(
                    "filename_prefix",
                    default="diffusion_models/quantized",
                    tooltip="Where below the output folder, and the start of the file's name.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, filename_prefix: str) -> io.NodeOutput:
        path = save_model(model, filename_prefix, cls.workflow())
        return io.NodeOutput(ui={"text": [f"Saved {path.name}, {path.stat().st_size / 1e6:.1f} MB"]})

    @classmethod
    def workflow(cls) -> dict[str, str]:
        """Prompt and workflow as header metadata, unless ComfyUI was told to write none."""
        if cls.hidden is None or not writes_metadata():
            return {}
        entries = {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}
        return {name: json.dumps(value) for name, value in entries.items() if value is not None}
