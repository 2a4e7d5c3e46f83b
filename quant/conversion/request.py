"""What the user asks of a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..recipes.parts import QuantizationRequest

if TYPE_CHECKING:
    from ..calibration.plan import Plan
    from ..calibration.store import Calibration


@dataclass(frozen=True)
class Request(QuantizationRequest):
    """What the user asks of a conversion: which layers are to become what, and how.

    requantize: quantized layers too; effort: of EFFORTS, for 4-bit scales; calibration: what its layers are fed;
    plan: which layer becomes what, instead of format, keep and rules.
    """

    requantize: bool = False
    effort: str = "best"
    calibration: Calibration | None = None
    plan: Plan | None = None
