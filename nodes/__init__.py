"""The nodes, thin: one file each."""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyExtension, io

from .load_checkpoint import LoadFP8Checkpoint
from .load_text_encoder import LoadFP8TextEncoder
from .scaled_linear_patch import ScaledLinearPatch


class ScaledFP8Extension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadFP8Checkpoint, LoadFP8TextEncoder, ScaledLinearPatch]
