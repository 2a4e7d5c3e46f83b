"""What lies beside a scale and enters the weight too: each is as long as it must be, and holds sound numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import AGAIN
from .kinds import MMA, SVDQUANT_TILES, as_e4m3
from .layer import Layer
from .mma import ROWS
from .plausibility import bad_factor, limit


@dataclass(frozen=True)
class Companion:
    """A role beside the scale. count: how many values a layer needs, 0 for any; problem: what is wrong with them."""

    role: str
    count: Callable[[Layer], int]
    problem: Callable[[Tensor], str]


def unsound(values: Tensor) -> str:
    """For parts that may have any sign."""
    return "" if bool(torch.isfinite(values.float()).all()) else "is NaN or infinite"


def positive(values: Tensor) -> str:
    return bad_factor(as_e4m3(values))


def not_negative(values: Tensor) -> str:
    return bad_factor(as_e4m3(values), zeros=True)


def flat(values: Tensor) -> str:
    return unsound(values) or ("has no two values that differ" if len(values.unique()) < 2 else "")


COMPANIONS = (
    Companion("smooth", lambda layer: layer.inputs, positive),
    Companion("smooth_divisor", lambda layer: layer.inputs, positive),
    Companion("global_scale", lambda layer: 1, positive),
    Companion("global_divisor", lambda layer: 1, positive),
    Companion("alpha", lambda layer: 1, positive),
    Companion("tensor_factor", lambda layer: 1, positive),
    Companion("output_factor", lambda layer: layer.stored[0], positive),
    Companion("group_scale", lambda layer: 0, not_negative),
    Companion("channel_scale", lambda layer: layer.stored[0], not_negative),
    Companion("codebook", lambda layer: 16, flat),
    Companion("offset", lambda layer: 0, unsound),
    Companion("up", lambda layer: 0, unsound),
    Companion("down", lambda layer: 0, unsound),
    Companion("bias_scale", lambda layer: 0, positive),
)


def companion_problem(layer: Layer) -> str:
    """What is wrong with what lies beside a layer's scale, "" for nothing."""
    return next((found for companion in COMPANIONS if (found := problem_of(companion, layer))), "") or misfit(layer)


def problem_of(companion: Companion, layer: Layer) -> str:
    """What is wrong with a companion of a layer, "" for nothing."""
    key = layer.module.key(companion.role)
    if key is None:
        return ""
    needed, info = companion.count(layer), layer.module.source[key]
    if needed and info.numel != needed:
        return f"{key} has {info.numel} values but its weight {list(layer.shape)} needs {needed}; {AGAIN}"
    if info.dtype not in FLOATING:
        return f"{key} is {info.dtype}, which no scale is; {AGAIN}"
    found = companion.problem(layer.module.source.tensor(key))
    return f"{key} {found}; {AGAIN}" if found else ""


FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "U8")


def misfit(layer: Layer) -> str:
    """What does not fit of parts that have two sides, or a tensor beside them to be as long as."""
    checks = (ranks_misfit, outlying, bias_misfit, offset_misfit, halves_misfit, reciprocals_misfit)
    return next((found for check in checks if (found := check(layer))), "")


def ranks_misfit(layer: Layer) -> str:
    """Why a low-rank part is not that of its weight, by their shapes; "" where it is."""
    module, (rows, cols) = layer.module, layer.stored
    up, down = module.shape("up"), module.shape("down")
    if not up:
        return ""
    rank = module.source[module.key("up") or ""].numel // rows
    sides = ((rows, rank), (rows // ROWS, rank, ROWS)) if layer.kind is SVDQUANT_TILES else ((rows, rank),)
    inner = (rank, cols) if module.has(".svdquant_lora_a") else (cols, rank)
    fits = up in sides and down == inner and rank > 0 and (rank % 16 == 0 or layer.kind not in MMA)
    return "" if fits else (
        f"{module.key('up')} {list(up)} and {module.key('down')} {list(down)} fit no weight {[rows, cols]} together; "
        + AGAIN
    )  # fmt: skip


def outlying(layer: Layer) -> str:
    """A low-rank part is added whole, and a sample of its weight may miss the one row or column that is damaged."""
    up, down = (None if part is None else part.double() for part in layer.low_rank())
    if up is None or down is None:
        return ""
    rows = ((up @ (down @ down.T)) * up).sum(1) / down.shape[1]
    columns = ((up.T @ up @ down) * down).sum(0) / up.shape[0]
    std = float(torch.maximum(rows.amax(), columns.amax()).sqrt())
    far = not std <= limit("max")
    return f"its weight would have a row or column of std {std:.3g} by its low-rank part; {AGAIN}" if far else ""


def bias_misfit(layer: Layer) -> str:
    scale, bias = layer.module.shape("bias_scale"), layer.module.shape("bias")
    if scale and bias and scale not in ((1,), bias):
        return f"{layer.module.key('bias_scale')} has shape {list(scale)}, its bias {list(bias)}; {AGAIN}"
    lost = len(bias) == 1 and bias[0] not in output_sides(layer)
    return f"its bias of {bias[0]} values fits no weight {list(layer.full)}; {AGAIN}" if lost else ""


def output_sides(layer: Layer) -> tuple[int, ...]:
    """How many outputs a weight may have: a transposed convolution of several inputs has them in its second side."""
    if len(layer.full) < 3:
        return layer.shape[0], layer.full[0] if not layer.transposed else layer.full[1]
    return layer.full[:2] if layer.full[0] > 1 else layer.full[:1]


def offset_misfit(layer: Layer) -> str:
    """Zero points are those of their scales: the range of 16 codes holds a zero, in most groups at least."""
    if layer.kind.offset is None:
        return ""
    far = (layer.kind.offset(layer).abs() > 2**4 * layer.kind.scale(layer)).float().mean()
    return f"{layer.module.key('offset')} are zero points of other scales than its own; {AGAIN}" if far > 0.5 else ""


def halves_misfit(layer: Layer) -> str:
    """A producer computes in one of the 16-bit floats; the bits of one read as the other are plausible numbers."""
    found = {layer.module.dtype(role) for role in HALVES} & {"BF16", "F16"}
    mixed = layer.kind.group > 0 and len(found) > 1
    return f"its scales and what lies beside them are BF16 and F16: a dtype in the header is wrong; {AGAIN}" * mixed


def reciprocals_misfit(layer: Layer) -> str:
    """A scale that is stored both ways: which of two that differ is right cannot be seen."""
    one, other = layer.module.key("scale"), layer.module.key("quant_scale")
    if one is None or other is None:
        return ""
    product = layer.module.source.tensor(one).double() * layer.module.source.tensor(other).double()
    agree = product.numel() > 0 and bool(((product - 1).abs() < AGREED).all())
    return (
        ""
        if agree
        else f"{one} and {other} are no reciprocals of each other: which one is right cannot be seen; {AGAIN}"
    )


AGREED = 0.005  # of two numbers that were rounded to BF16
HALVES = ("scale", "offset", "smooth_divisor", "up", "down", "tensor_factor", "output_factor")
