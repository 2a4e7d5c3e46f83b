"""A CLIP that encodes with the model of its patcher, which ComfyUI's Select CLIP Device replaces by one elsewhere."""

from __future__ import annotations

from comfy.sd import CLIP
from torch.nn import Module


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


def by_patcher(clip: CLIP) -> CLIP:
    """The same CLIP, which follows its patcher; one of another class, which is not known here, as it is."""
    if type(clip) is CLIP:
        clip.__class__ = PatcherCLIP
        vars(clip).pop("cond_stage_model", None)
    return clip
