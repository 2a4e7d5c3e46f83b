"""Test-only nodes: the digits model's conditioning, and numbers that leave the server in a file."""

from __future__ import annotations

from pathlib import Path

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


NODE_CLASS_MAPPINGS = {"DigitsConditioning": DigitsConditioning, "SaveLatentNumbers": SaveLatentNumbers}
