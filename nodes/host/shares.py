"""Behind the first watched sampling two of other noise, one with disturbed layers: how much does each one matter?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import Module

from ...quant.calibration.disturbance import LATE, Rounded, Shares, fed, image_error, spread
from ...quant.calibration.store import read_calibration
from ...quant.calibration.watching import Call, Watch
from ...quant.errors import Refused
from .disturbance import disturbed, weight_of
from .plan import activation_dtype
from .watch import Sampled, weights


def measure_shares(path: Path, model: ModelPatcher, watch: Watch, sampled: Sampled) -> None:
    """Give watch the factor of each layer; nothing where they are known, or where the image says nothing.

    Layers are disturbed by the rounding that plans make, which is fitted to the noise that was watched: of that, images
    would show too little of it. path: of the calibration that this adds to.
    """
    layers = [name for group in disturbed(model, "layer") for name in group if name in watch.moments]
    if watch.factors or known(path) or not layers or not sampled.image.any():
        return
    steps = 2 * sampled.calls + 1 + len(layers)
    logging.info("Scaled FP8: %d steps for the sensitivity of %d layers, each rounded once.", steps, len(layers))
    try:
        watch.factors = measured(layers, model, watch, sampled)
    except RuntimeError as error:
        if not comfy.model_management.is_oom(error):
            raise
        # the image is drawn: it is not lost for this
        logging.warning("Scaled FP8: too little memory to tell how much each layer matters; budgets guess it by names.")


def measured(layers: list[str], model: ModelPatcher, watch: Watch, sampled: Sampled) -> dict[str, float]:
    want = drawn_by(watch, sampled, undisturbed)
    shares = Shares(rounded(model, watch), layers, held(model, layers), int(LATE * sampled.calls))
    return shares.factors(image_error(drawn_by(watch, sampled, shares.call), want))


def known(path: Path) -> bool:
    """Whether a calibration has factors already; one that cannot be read is refused where it is added to."""
    try:
        return path.exists() and any(name.endswith(".factor") for name in read_calibration(path).source)
    except Refused:
        return True


def drawn_by(watch: Watch, sampled: Sampled, call: Call) -> Tensor:
    """Latents of other noise, by what is called instead of watching."""
    watch.instead = call
    try:
        return sampled.other().float()
    finally:
        watch.instead = None


def undisturbed(forward: Callable[[], Tensor], modules: Mapping[str, Module]) -> Tensor:
    return forward()


def rounded(model: ModelPatcher, watch: Watch) -> Callable[[str], Rounded]:
    """Layer -> what disturbs it, and its output's error; raises where the user has asked to stop."""

    def found(name: str) -> Rounded:
        comfy.model_management.throw_exception_if_processing_interrupted()
        difference, error = fed(weight_of(model, name), watch.moments[name], name)
        return difference.to(activation_dtype(model)), error

    return found


def held(model: ModelPatcher, layers: list[str]) -> list[str]:
    """Those that are disturbed all along."""
    known = dict(weights(model))
    return spread({name: known[name].numel() * activation_dtype(model).itemsize for name in layers})
