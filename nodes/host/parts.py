"""MODEL, CLIP and VAE alike: each has a patcher that loads its weights, and what was measured of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

from ...quant.errors import Refused

Part: TypeAlias = ModelPatcher | CLIP | VAE
# attachment of a patcher: the state of its patches, and layer -> SQNR in dB that was measured in that state
ERRORS = "scaled_fp8_errors"


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
    model.set_attachments(ERRORS, (model.patches_uuid, dict(errors)))


def errors_of(model: ModelPatcher) -> dict[str, float]:
    """Layer -> SQNR in dB; nothing for a clone that has other patches than the model that was measured."""
    patches, errors = model.get_attachment(ERRORS) or (None, {})
    return dict(errors) if patches == model.patches_uuid else {}
