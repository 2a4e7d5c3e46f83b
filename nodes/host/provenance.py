"""What a saved model's header says of how it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import comfyui_version
from comfy.model_patcher import ModelPatcher

from ...quant.checkpoint.fingerprint import fingerprint
from ...quant.errors import Refused
from ...quant.files.header import TensorInfo
from ...quant.files.open import open_source
from ...quant.files.stored import STORES, Source
from ...quant.quality.card import Card, summary_of
from ...quant.quality.checkpoints import file_name
from ...quant.quality.quality import Quality
from ...quant.versions import versions

# what Compare Models leaves on a model that it measured
QUALITY = "scaled_fp8_quality"
NOT_THERE = "unknown"


def source_of(model: ModelPatcher) -> Source | None:
    """The file that a model came from, None where it is none, or was moved or replaced since."""
    path = (model.cached_patcher_init or (None, ("",)))[1][0]
    if not isinstance(path, str) or not path.endswith(STORES):
        return None
    try:
        return open_source(path)
    except Refused:
        return None


def card_of(
    model: ModelPatcher, source: Source | None, markers: Mapping[str, Mapping[str, object]], plan: list[TensorInfo]
) -> dict[str, str]:
    """The header's entry; markers: layer -> what its comfy_quant says; plan: the tensors that are written."""
    layers = Counter(str(marker.get("format")) for marker in markers.values())
    kept = tuple(name for info in plan if (name := weight_of(info)) and name not in markers)
    card = Card(
        source=file_name(source) if source else NOT_THERE,
        fingerprint=fingerprint(source) if source else "",
        maker="Save Quantized Model",
        method=", ".join(layers),
        granularity="",
        layers=dict(layers.most_common()),
        kept={"not quantized in the model that was saved": kept} if kept else {},
        settings={"merged patches": str(len(model.patches))} if model.patches else {},
        versions=versions("torch", "comfy-kitchen") | {"ComfyUI": comfyui_version.__version__},
        quality=quality_of(model),
    )
    return card.metadata(source.metadata if source else {})


def weight_of(info: TensorInfo) -> str:
    """The layer that a tensor is the weight of, "" for others."""
    return info.name.removesuffix(".weight") if info.name.endswith(".weight") and len(info.shape) > 1 else ""


def note_quality(model: ModelPatcher, quality: Quality) -> None:
    """Keep what was measured of a model for the card of the file that it is saved to, until it is patched anew."""
    model.set_attachments(QUALITY, quality.to_json() | {"patches_uuid": str(model.patches_uuid)})


def quality_of(model: ModelPatcher) -> Quality | None:
    """What was measured of this model, None where it was patched since: its clones keep what is attached."""
    found, now = model.attachments.get(QUALITY), str(model.patches_uuid)
    if not isinstance(found, dict) or found.get("patches_uuid", now) != now:
        return None
    try:
        return summary_of(Quality.from_json(found))
    except Refused:
        return None
