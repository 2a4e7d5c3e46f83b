"""MODEL, CLIP and VAE alike: each has a patcher that loads its weights, and what was measured of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

from ...quant.errors import Refused

Part: TypeAlias = ModelPatcher | CLIP | VAE
ERRORS = "scaled_fp8_errors"  # attachment of a patcher


class LayerErrors(dict[str, float]):
    """Layer -> SQNR in dB, measured or predicted for one state of a model's patches; a clone is another model."""

    def __init__(self, errors: Mapping[str, float], patches: object) -> None:
        super().__init__(errors)
        self.patches = patches

    def on_model_patcher_clone(self) -> LayerErrors:
        return LayerErrors({}, None)


def patcher_of(part: Part) -> ModelPatcher:
    """What loads the weights of a MODEL, a CLIP or a VAE; Refused for anything else."""
    found = part if isinstance(part, ModelPatcher) else getattr(part, "patcher", None)
    if not isinstance(found, ModelPatcher):
        raise Refused(f"model: {type(part).__name__} has no layers to report; connect a MODEL, a CLIP or a VAE.")
    return found


def kind_of(part: Part) -> str:
    """ComfyUI's name for the type of a part."""
    if isinstance(part, VAE):
        return "VAE"
    return "CLIP" if isinstance(part, CLIP) or getattr(part, "is_clip", False) else "MODEL"


def note_errors(model: ModelPatcher, errors: Mapping[str, float]) -> None:
    """Keep what was measured or predicted of a model's layers, until it is patched anew."""
    model.set_attachments(ERRORS, LayerErrors(errors, model.patches_uuid))


def errors_of(model: ModelPatcher) -> dict[str, float]:
    """Layer -> SQNR in dB; nothing for another model, or other patches, than what was measured."""
    found: LayerErrors | None = model.get_attachment(ERRORS)
    return {} if found is None or found.patches != model.patches_uuid else dict(found)
