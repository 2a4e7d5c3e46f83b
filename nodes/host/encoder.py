"""Text encoders: tensors by the names that ComfyUI knows one by; a CLIP that encodes with the model of its patcher.

ComfyUI's Select CLIP Device replaces that one by one elsewhere.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

import comfy.sd
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from comfy.sd import CLIP
from torch import Tensor
from torch.nn import Module

from ...quant.errors import Refused
from ...quant.recipes.unscaled import Unscaled, unscaled
from ...quant.weights.native import put_values
from .architecture import without_prefix
from .plan import linears, tensor_of

# what names begin with in a checkpoint that a text encoder was taken out of
STEM = re.compile(
    r"(text_encoders\.\w+\.|cond_stage_model\.|text_encoder\.|conditioner\.embedders\.\d+\.|\w+\.(?=transformer\.))"
    r"(transformer\.)?"
)
# between an encoder's name in a CLIP and those of its own tensors
ENCODER = ".transformer."
# by which ComfyUI knows those that its detection does not: of OpenCLIP, and of MiniMax with its sound
OTHERS = ("transformer.resblocks.0.ln_1.weight", "model.audio_decoder.projection.weight")


def by_encoder_names(files: Sequence[tuple[str, dict[str, Tensor]]]) -> list[dict[str, Tensor]]:
    """The tensors of a text encoder's files, given by their names; Refused where ComfyUI would take none for one.

    It takes what it does not know for a CLIP-L of which all weights are missing. A second file may hold a part alone.
    """
    found = [known_names(without_prefix(tensors)) for _, tensors in files]
    if any(map(is_known, found)):
        return found
    raise Refused(f"{files[0][0]}: holds no text encoder that this ComfyUI knows; update it or choose another file.")


def known_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without what their names begin with, if ComfyUI knows them so only."""
    bare = {name[len(match[0]) if (match := STEM.match(name)) else 0 :]: tensor for name, tensor in tensors.items()}
    return bare if len(bare) == len(tensors) and is_known(bare) and not is_known(tensors) else tensors


def is_known(tensors: dict[str, Tensor]) -> bool:
    return any(name in tensors for name in OTHERS) or comfy.sd.detect_te_model(tensors) is not None


class PatcherCLIP(CLIP):
    """ComfyUI 0.33 goes on encoding with the model that the loader made: patches of the one elsewhere would not run."""

    @property
    def cond_stage_model(self) -> Module:
        return self.patcher.model

    @cond_stage_model.setter
    def cond_stage_model(self, model: Module) -> None:
        """What ComfyUI gives to a clone is that of the patcher it was cloned from."""

    def clone(self, disable_dynamic: bool = False) -> CLIP:
        return by_patcher(super().clone(disable_dynamic))

    def state_dict_for_saving(self) -> dict[str, Tensor]:
        """For ComfyUI's own nodes that save: values for codes that core would read without their scales, as noise."""
        return with_values(self.patcher, super().state_dict_for_saving())


def with_values(patcher: ModelPatcher, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors to be saved, with what the codes of encoders mean that core reads without scales. These are small."""
    unread, found = unread_encoders(tensors), dict(tensors)
    for name, layer in linears(patcher):
        kind, weight = unread.get(name.split(ENCODER)[0]), tensor_of(layer)
        if kind and isinstance(weight, QuantizedTensor):
            put_values(found, name, merged(patcher, name, layer, weight).dequantize().cpu())
    if len(found) < len(tensors):
        titles = " and ".join({kind.title for kind in unread.values()})
        logging.warning(f"ComfyUI core drops the scales of {titles}: its weights are saved in high precision.")
    return found


def merged(patcher: ModelPatcher, name: str, layer: Module, weight: QuantizedTensor) -> Tensor:
    """A layer's weight with its LoRA, whether or not it is loaded with that."""
    if getattr(layer, "comfy_patched_weights", False):
        return weight
    key = f"{name}.weight"
    return patcher.patch_weight_to_device(key, device_to=patcher.load_device, return_weight=True)


def unread_encoders(tensors: Mapping[str, Tensor]) -> dict[str, Unscaled]:
    """What a CLIP's encoders are called -> their kind, of those that core reads without scales."""
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        encoder, _, own = name.partition(ENCODER)
        parts.setdefault(encoder, {})[own] = tuple(tensor.shape)
    kinds = ((encoder, unscaled(own)) for encoder, own in parts.items())
    return {encoder: kind for encoder, kind in kinds if kind}


def by_patcher(clip: CLIP) -> CLIP:
    """The same CLIP, which follows its patcher; one of another class, which is not known here, as it is."""
    if type(clip) is CLIP:
        clip.__class__ = PatcherCLIP
        vars(clip).pop("cond_stage_model", None)
    return clip
