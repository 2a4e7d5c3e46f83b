"""Scales without codes: which may be ignored, and with what of their modules."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import torch
from torch import Tensor

from ..errors import AGAIN, Refused
from .checks import LARGEST
from .kinds import as_float
from .module import Module
from .plausibility import implausible
from .sampling import run_starts

FLOATS = ("F32", "F16", "BF16")
ACTIVATION = ("input_scale", "input_helper")  # roles that mean nothing without a scale of the weight
# scales that may lie beside a high-precision weight as placeholders; the others change what the weight means
LOOSE = (
    "scale", "global_scale", "global_divisor", "group_scale", "channel_scale", "smooth", "bias_scale", "smooth_divisor",
    "offset", "up", "down", "zero_point", "codebook",
)  # fmt: skip


class Leftover(Enum):
    """Scales without codes that change nothing."""

    DUMMY = "Scales of 1 beside high-precision weights"
    DEQUANTIZED = "Scales beside weights that are dequantized already"


def leftover(module: Module, key: str) -> Leftover:
    """Why the scale of this key may be ignored; Refused, as a sentence without the layer's name, where it may not."""
    weight = module.key("weight")
    if weight is None:
        raise Refused(
            f"{key} is the scale of no weight in this file: the file is incomplete or its keys were renamed; {AGAIN}"
        )
    scale = as_float(module.source.tensor(key)) if module.source[key].numel <= LARGEST else None
    if scale is None or module.key("scale") is None or module.dtype() not in FLOATS:
        raise Refused(
            f"{key} belongs to a quantized weight but {weight} is {module.dtype()}; remove it or get the original"
        )
    if bool((scale == 1).all()):
        return Leftover.DUMMY
    if settled_by_std(module, scale):
        return Leftover.DEQUANTIZED
    raise Refused(
        f"{weight} is {module.dtype()} but has the scale {key}: whether it is dequantized already cannot be seen; "
        "remove the scale or get the original"
    )


def settled_by_std(module: Module, scale: Tensor) -> bool:
    """Whether a high-precision weight is plausible as it is and not when scaled: then its scale is a leftover."""
    key, shape = module.key("weight") or "", module.shape()
    if len(shape) < 2 or not bool((scale > 0).all()):
        return False  # what has other signs is no scale
    pieces = [module.source.piece(key, *bounds) for bounds in run_starts(module.source[key].numel)]
    raw, inputs = torch.cat(pieces).float(), shape[-1]
    size = float((raw.std() * scale.mean()).abs()) * inputs**0.5
    # 0.1 to 20 is where trained weights are (catalogue 7.1)
    return not implausible(raw, inputs) and not 0.1 <= size <= 20


def meaningless(module: Module) -> Iterator[str]:
    """The keys of a module whose scale is ignored that mean nothing without it; the others are handed on."""
    for suffix, key in module.keys.items():
        role = module.role(suffix)
        if key == module.key("scale") or role in ACTIVATION or (role in LOOSE and is_one(module, key)):
            yield key


def is_one(module: Module, key: str) -> bool:
    return module.source[key].numel <= LARGEST and bool((as_float(module.source.tensor(key)) == 1).all())
