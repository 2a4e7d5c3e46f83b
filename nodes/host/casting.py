"""What ComfyUI notes on layers that it casts at each use, taken off them where it no longer holds."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher


def unmark(model: ModelPatcher, *load: object) -> None:
    """Have the next loading in low VRAM give each layer its LoRA.

    ComfyUI 0.33 marks layers of text encoders as cast at use when it loads them whole, leaves the mark when it unloads
    them, and then takes them for layers that have their LoRA already: it is dropped without a word.
    """
    if model.model.model_lowvram:
        return
    for module in model.model.modules():
        vars(module).pop("prev_comfy_cast_weights", None)
