"""What Nunchaku does beside quantizing, told by the names of layers: shuffled modulations, shifted activations."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from .kinds import NUNCHAKU_AWQ, Kind

SHIFT = 0.171875  # added to what comes out of a GELU, whose least is -0.17, so that its codes need no sign
AFTER_GELU = re.compile(r"(^|\.)(mlp_(context_)?fc2|(img_mlp|txt_mlp|ff|ff_context)\.net\.2)$")
MODULATION = re.compile(r"(^|\.)(norm1(_context)?\.linear|norm\.linear|(img|txt)_mod\.1)$")


def splits_of(name: str, kind: Kind, stored: tuple[int, int]) -> int:
    """Into how many parts of one modulation a layer's outputs go, which Nunchaku stores in turns; 1 for none."""
    rows, inputs = stored
    shuffled = kind is NUNCHAKU_AWQ and MODULATION.search(name) and rows % inputs == 0
    return rows // inputs if shuffled else 1


def apart(rows: Tensor, splits: int) -> Tensor:
    """Rows in turns, a b c a b c -> part by part, a a b b c c."""
    return rows.reshape(-1, splits, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape).contiguous()


def modulation_bias(stored: Tensor, splits: int) -> Tensor:
    """The bias of a modulation as other readers compute it."""
    return apart(stored, splits) - ones_of_scales(splits, len(stored))


def ones_of_scales(splits: int, outputs: int) -> Tensor:
    """The 1 of 1 + scale, which Nunchaku adds to the second and the last but one part."""
    ones = torch.zeros(splits)
    ones[[1, -2]] = 1
    return ones.repeat_interleave(outputs // splits)
