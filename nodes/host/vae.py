"""A VAE with quantized layers: what ComfyUI's own node saves of it is what its core reads, which knows no scales."""

from __future__ import annotations

import copy

from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from comfy.sd import VAE
from torch import Tensor

from ...quant.weights.native import put_values
from .plan import layers, tensor_of


class PatcherVAE(VAE):
    """A VAE whose weights are those of its patcher, whether or not they are loaded."""

    def get_sd(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = dict(super().get_sd())
        for name, layer in layers(self.patcher, "vae"):
            weight = tensor_of(layer)
            if isinstance(weight, QuantizedTensor):
                put_values(tensors, name, weight.dequantize().cpu())
        return tensors


def with_patcher(vae: VAE, patcher: ModelPatcher) -> VAE:
    """The same VAE with other weights; one of another class, which is not known here, keeps it."""
    made = copy.copy(vae)
    made.patcher = patcher
    if type(made) is VAE:
        made.__class__ = PatcherVAE
    return made
