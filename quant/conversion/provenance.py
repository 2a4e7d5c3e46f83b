"""What a result's header says beside its tensors: what the source's said, and how it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from ..checkpoint.fingerprint import fingerprint
from ..checkpoint.read import Checkpoint
from ..files.sets import MARK
from ..quality.card import Card
from ..quality.checkpoints import file_name
from ..versions import versions
from .request import Request
from .tasks import Cast, Task

# header keys that describe what the result is not
DROPPED_KEYS = ("tensor_names", "weight_qmax", "comfy_config", "scaled_fp8", MARK)


def metadata_of(ckpt: Checkpoint, tasks: Sequence[Task], request: Request) -> dict[str, str]:
    """What the result's header holds beside its tensors: what the source's says, and how it was made."""
    return plain_metadata(ckpt, tasks) | card_of(ckpt, tasks, request)


def plain_metadata(ckpt: Checkpoint, tasks: Iterable[Task]) -> dict[str, str]:
    """The source's metadata that goes into the result: all but what describes its quantization."""
    infos = {info.name for task in tasks for info in task.infos}
    names = infos | {name.removesuffix(".weight") for name in infos}
    return {
        key: value
        for key, value in ckpt.source.metadata.items()
        if "quant" not in key.lower() and key not in DROPPED_KEYS and key not in names and not has_type(value)
    }


def has_type(value: str) -> bool:
    """Whether this is torchao's description of a tensor."""
    return value.startswith("{") and '"_type"' in value


def card_of(ckpt: Checkpoint, tasks: Sequence[Task], request: Request) -> dict[str, str]:
    """The header's entry for a conversion, before it is carried out: the same for the same source and request."""
    layers = Counter(task.after for task in tasks if not isinstance(task, Cast) or task.values.layer is not None)
    card = Card(
        source=file_name(ckpt.source),
        fingerprint=fingerprint(ckpt.source),
        maker="scaled-fp8 convert",
        method=method_of(request),
        granularity=request.granularity or "",
        layers=dict(layers.most_common()),
        kept=kept_of(tasks),
        settings=settings_of(request),
        versions=versions("torch"),
    )
    return card.metadata(ckpt.source.metadata)


def method_of(request: Request) -> str:
    if request.plan:
        return f"plan for {request.plan.budget}"
    return request.format or "as settings say"


def kept_of(tasks: Sequence[Task]) -> dict[str, tuple[str, ...]]:
    """Reason -> the layers that a conversion's tasks leave in the precision that they had."""
    found: dict[str, list[str]] = {}
    for task in tasks:
        weight = isinstance(task, Cast) and task.dtype is None and task.name.endswith("weight")
        if weight and task.reason:
            found.setdefault(task.reason, []).append(task.name.removesuffix(".weight"))
    return {reason: tuple(names) for reason, names in found.items()}


def settings_of(request: Request) -> dict[str, str]:
    """What was asked of a conversion besides, by the names that the command line has."""
    calibration = PurePath(request.calibration.source.name).name if request.calibration else ""
    asked = {
        "keep": request.keep,
        "ignore": ", ".join(request.ignored),
        "family": request.family or "",
        "component": request.component or "",
        "effort": request.effort,
        "calibration": calibration,
        "requantize": "yes" if request.requantize else "",
    }
    return {name: value for name, value in asked.items() if value}
