"""What the user asks of a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..calibration.plan import Plan
    from ..calibration.store import Calibration
    from ..recipes.settings import Settings


@dataclass(frozen=True)
class Request:
    """What the user asks of a conversion; None and "" leave it to settings and rules.

    component: what the file is; of an all-in-one checkpoint, the only part to quantize; requantize: quantized layers
    too; unsupported: write what ComfyUI core cannot load; ignored: names of layers to leave, each with all below it,
    beside those that the source's own config names; effort: of EFFORTS, for 4-bit scales; calibration: what its
    layers are fed; plan: which layer becomes what, instead of format, keep and rules.
    """

    format: str | None
    granularity: str | None = None
    keep: str = ""
    family: str | None = None
    component: str | None = None
    requantize: bool = False
    unsupported: bool = False
    settings: Settings | None = None
    ignored: tuple[str, ...] = ()
    effort: str = "best"
    calibration: Calibration | None = None
    plan: Plan | None = None
