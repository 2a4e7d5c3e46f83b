"""What a model's layers are fed, rounding that knows it, and the precision that each layer deserves for a budget."""

from __future__ import annotations

from .planner import plan_checkpoint
from .rounding import calibrated
from .store import read_calibration

__all__ = ["calibrated", "plan_checkpoint", "read_calibration"]
