"""Behind the first watched sampling the same once more, with disturbed layers: how much does each one matter?"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...quant.calibration.disturbance import LATE, Shares, distance, nearest, spread
from ...quant.calibration.store import read_calibration
from ...quant.calibration.watching import Watch
from ...quant.errors import Refused
from .disturbance import disturbed, local_error, weight_of
from .plan import activation_dtype
from .watch import Sampled, weights


def measure_shares(path: Path, model: ModelPatcher, watch: Watch, sampled: Sampled) -> None:
    """Give watch the factor of each layer; nothing where they are known, or where the image says nothing.

    path: of the calibration that this adds to.
    """
    layers = [name for group in disturbed(model, "layer") for name in group if name in watch.moments]
    if watch.factors or known(path) or not layers or not sampled.image.any():
        return
    logging.info("Scaled FP8: %d steps for the sensitivity of %d layers.", sampled.calls + len(layers), len(layers))
    shares = Shares(differences(model), layers, held(model, layers), int(LATE * sampled.calls))
    watch.shares = shares
    try:
        lost = distance(sampled.again().float(), sampled.image.float())
    finally:
        watch.shares = None
    local = {name: local_error(model, watch, name) for name in shares.alone}
    watch.factors = shares.factors(lost, local)


def known(path: Path) -> bool:
    """Whether a calibration has factors already; one that cannot be read is refused where it is added to."""
    try:
        return path.exists() and any(name.endswith(".factor") for name in read_calibration(path).source)
    except Refused:
        return True


def differences(model: ModelPatcher) -> Callable[[str], Tensor]:
    """Layer -> what disturbs it; raises where the user has asked to stop."""

    def difference(name: str) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return nearest(weight_of(model, name), name).to(activation_dtype(model))

    return difference


def held(model: ModelPatcher, layers: list[str]) -> list[str]:
    """Those that are disturbed all along."""
    known = dict(weights(model))
    return spread({name: known[name].numel() * activation_dtype(model).itemsize for name in layers})
