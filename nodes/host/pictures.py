"""What VAEs make of two latents, and how far the pictures are apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management as management
import torch
from comfy.sd import VAE
from torch import Tensor

import nodes

from ...quant.errors import Refused, first_line
from ...quant.quality.pictures import enlargement
from .perceptual import perceptual
from .sampling import first

WINDOW = 11  # pixels of SSIM's Gaussian, as in its paper
TRIAL = 8  # latent pixels


def decode(vae: VAE, latent: Any) -> Tensor:
    """IMAGE ``[images, height, width, 3]`` as core's VAE Decode makes it; Refused for sound."""
    (images,) = nodes.VAEDecode().decode(vae, {"samples": latent})
    if images.ndim != 4 or images.shape[-1] not in (3, 4):
        raise Refused(f"vae: decodes {list(images.shape)}, which is no picture; leave it off.")
    return images[..., :3].float().cpu()


def check_fits(vae: VAE, latent: Any) -> None:
    """Refused, before anything is sampled, where a VAE cannot decode a model's latents."""
    whole = first(latent)
    corner = whole[(slice(0, 1), slice(None), *[slice(0, TRIAL)] * (whole.ndim - 2))]
    try:
        decode(vae, torch.zeros_like(corner))
    except (Refused, management.InterruptProcessingException):
        raise
    except Exception as problem:
        # one whose channels are right may only want more pixels
        if vae.latent_channels != whole.shape[1]:
            raise Refused(misfit(vae, whole, problem)) from problem


def misfit(vae: VAE, latent: Tensor, problem: Exception) -> str:
    kind = type(vae.first_stage_model).__name__
    return (
        f"vae: {kind} decodes latents of {vae.latent_channels} channels and the model's latent has {latent.shape[1]} "
        f"({first_line(problem)}); connect the VAE of this model."
    )


def figures(a: Tensor, b: Tensor) -> dict[str, float]:
    """PSNR over all pixels, SSIM and, where it is installed, LPIPS as the mean over all pictures in [0, 1]."""
    # wanted by this node alone: where it is missing, all others are there
    from kornia.metrics import psnr

    found = {"psnr": float(psnr(b, a, 1.0))}
    if min(a.shape[1:3]) > WINDOW // 2:
        found["ssim"] = mean(structure, a, b)
    network = perceptual()
    if network is not None:
        found["lpips"] = mean(network, a, b)
    return found


def mean(of: Callable[[Tensor, Tensor], float], a: Tensor, b: Tensor) -> float:
    """One picture ``[1, 3, height, width]`` of each at a time."""
    pairs = zip(a.movedim(-1, 1).split(1), b.movedim(-1, 1).split(1), strict=True)
    return sum(of(one.contiguous(), other.contiguous()) for one, other in pairs) / len(a)


def structure(a: Tensor, b: Tensor) -> float:
    # identical pictures are 1 exactly, without the term that keeps a denominator from being 0
    from kornia.metrics import ssim

    return float(ssim(a, b, WINDOW, 1.0, eps=0.0).mean())


def enlarged(a: Tensor, b: Tensor) -> tuple[Tensor, int]:
    """The difference of pictures, brightened by the largest power of two that clips nothing; that power."""
    apart = (b - a).abs()
    factor = enlargement(float(apart.amax()))
    return apart * factor, factor
