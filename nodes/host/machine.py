"""What the ComfyUI around this pack says of itself: where it runs a model and how, and how it was started."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy.cli_args import args

import nodes


def diffusion_place() -> tuple[torch.device, torch.dtype]:
    """Where ComfyUI runs a diffusion model, and in which dtype it computes there."""
    management = comfy.model_management
    device = management.get_torch_device()
    return device, torch.bfloat16 if management.should_use_bf16(device) else torch.float32


def encoder_place() -> tuple[torch.device, torch.dtype]:
    """The same of a text encoder."""
    return comfy.model_management.text_encoder_device(), torch.float32


def free_memory(device: torch.device) -> int:
    """Bytes that ComfyUI takes for free on a device."""
    return comfy.model_management.get_free_memory(device)


def encoder_types() -> list[str]:
    """The types of ComfyUI's own loaders for one and for two text encoders."""
    loaders = (nodes.CLIPLoader, nodes.DualCLIPLoader)
    return list(dict.fromkeys(name for loader in loaders for name in loader.INPUT_TYPES()["required"]["type"][0]))


def writes_metadata() -> bool:
    """Whether prompt and workflow are written into files."""
    return not args.disable_metadata
