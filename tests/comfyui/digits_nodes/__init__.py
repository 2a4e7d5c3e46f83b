"""Test-only nodes: the digits model's conditioning, and numbers that leave the server in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import folder_paths
import torch
from safetensors.torch import load_file, save_file


class DigitsConditioning:
    """The trained context of each digit in a string, as one CONDITIONING batch.

    Takes the place of a text encoder's CONDITIONING, which must be sound though the digits model cannot read it.
    """

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"
    CATEGORY = "digits"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"digits": ("STRING", {"default": "0123"})},
            "optional": {"conditioning": ("CONDITIONING",)},
        }

    def encode(self, digits: str, conditioning=None):
        for context, _ in conditioning or []:
            assert context.isfinite().all() and context.std() > 0, "the text encoder's output is broken"
        table = load_file(Path(folder_paths.get_input_directory()) / "digits-conditioning.safetensors")
        return ([[torch.cat([table[digit] for digit in digits]), {}]],)


class SaveLatentNumbers:
    """Latents as float32 in output/NAME.safetensors."""

    RETURN_TYPES = ()
    FUNCTION = "save"
    CATEGORY = "digits"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",), "name": ("STRING", {"default": "latent"})}}

    def save(self, latent, name: str):
        samples = latent["samples"].float().contiguous()
        save_file({"samples": samples}, Path(folder_paths.get_output_directory()) / f"{name}.safetensors")
        return {"ui": {"text": [f"{tuple(samples.shape)}"]}}


class DigitsErrors:
    """Errors for the layers of a model, as a node that compares would have measured them, and the page it would write.

    In the model's order: 20 dB, 21 dB and so on; the second is noise, the third has none, the last is unknown.
    """

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "measure"
    CATEGORY = "digits"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}, "hidden": {"unique_id": "UNIQUE_ID"}}

    def measure(self, model, unique_id: str):
        measured, runs, parts = model.clone(), pack(".nodes.panel.runs"), pack(".nodes.host.parts")
        names = sorted(runs.run_of(model).choices)
        errors = dict(zip(names[:-1], [20.0, -48.0, float("inf"), *map(float, range(23, 100))], strict=False))
        parts.note_errors(measured, errors)
        page = {"filename": "digits-report.html", "subfolder": "", "type": "output"}
        (Path(folder_paths.get_output_directory()) / page["filename"]).write_text(PAGE)
        schema, hidden = SimpleNamespace(node_id="DigitsErrors"), SimpleNamespace(unique_id=unique_id)
        runs.remember(SimpleNamespace(hidden=hidden, define_schema=lambda: schema), measured, page=page)
        return {"ui": {"scaled_fp8_report": [page]}, "result": (measured,)}


# tries to reach the page around it, which must not be
PAGE = """<!doctype html><html lang="en"><title>Report</title><h1>A against B</h1><p id="done"></p><script>
let told = "alone";
try { parent.reached = parent.document.title; told = "reached"; } catch { }
document.getElementById("done").textContent = told;
</script></html>"""


def pack(ending: str):
    """A module of the pack, which ComfyUI loads by a name of its own."""
    return next(module for name, module in sys.modules.items() if name.endswith(f"scaled-fp8{ending}"))


NODE_CLASS_MAPPINGS = {"DigitsConditioning": DigitsConditioning, "SaveLatentNumbers": SaveLatentNumbers,
                       "DigitsErrors": DigitsErrors}  # fmt: skip
