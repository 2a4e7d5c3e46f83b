"""Activations to codes: ``[tokens, in] -> (codes, scale)``, always clamped, never in place.

Each scheme is defined by eager arithmetic; the quantizers are faster ways to the same codes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.formats import FORMATS, Format, float8_e4m3fn
from .scratch import pieces, scratch

# e4m3 carries a bit more of an activation than e5m2; its range is what the scale is for
ACTIVATION: Format = float8_e4m3fn
INT8 = FORMATS["int8"]
RUN = 128
# activations that become float32 at a time on a CPU, within its cache
PIECE = 1 << 18
TINY = torch.finfo(torch.float32).tiny

Quantize = Callable[[Tensor, "Tensor | None"], tuple[Tensor, Tensor]]


##### The schemes: activations and a static scale or None -> codes and float32 scale


def static(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """By a scale that is given: codes and scale ``[1, 1]``."""
    assert scale is not None
    scale = scale.reshape(1, 1)
    return to_codes(x, scale), scale


def static_by_tokens(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same with the scale once a token, as row-wise GEMMs read it: ``[tokens, 1]``."""
    codes, scale = static(x, scale)
    return codes, scale.repeat(len(x), 1)


def per_token(x: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One scale a token: ``[tokens, 1]``."""
    scale = scale_of(x.abs().amax(1, True), ACTIVATION.maximum)
    return to_codes(x, scale), scale


def per_tensor(x: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One scale for all: ``[1, 1]``."""
    amax = x.abs().amax((0, 1), True) if x.numel() else x.new_zeros(1, 1)
    scale = scale_of(amax, ACTIVATION.maximum)
    return to_codes(x, scale), scale


def per_tensor_by_tokens(x: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same with the scale once a token: ``[tokens, 1]``."""
    codes, scale = per_tensor(x)
    return codes, scale.repeat(len(x), 1)


def by_runs(x: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One scale for each 128 inputs of a token, ``[tokens, in / 128]`` column after column; in is filled up to that."""
    x = filled(x)
    runs = x.reshape(x.shape[0], x.shape[1] // RUN, RUN)
    scale = scale_of(runs.abs().amax(2, True), ACTIVATION.maximum)
    return to_codes(runs, scale).view(x.shape), scale.squeeze(2).t().contiguous().t()


def filled(x: Tensor) -> Tensor:
    """With zeros up to a multiple of RUN inputs."""
    return F.pad(x, (0, -x.shape[1] % RUN)) if x.shape[1] % RUN else x


def int8_per_token(x: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """int8 codes and one scale a token: ``[tokens, 1]``."""
    if type(x) is Tensor and x.device.type == "cpu" and not torch.compiler.is_compiling() and x.numel() > PIECE:
        return int8_pieces(x.detach())
    scale = scale_of(x.abs().amax(1, True), INT8.maximum)
    return x.div(scale).round_().clamp_(-INT8.maximum, INT8.maximum).to(INT8.dtype), scale


def int8_pieces(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 per token on a CPU: as many tokens at a time as stay in its cache."""
    codes, scale = x.new_empty(x.shape, dtype=INT8.dtype), x.new_empty(len(x), 1, dtype=torch.float32)
    rows = max(1, PIECE // x.shape[1])
    for tokens, into, own in zip(*(pieces(tensor, rows) for tensor in (x, codes, scale)), strict=True):
        values = scratch("activations", torch.float32, *tokens.shape).copy_(tokens)
        own.copy_(scale_of(torch.maximum(values.amax(1, True), values.amin(1, True).neg_()), INT8.maximum))
        into.copy_(values.div_(own).round_().clamp_(-INT8.maximum, INT8.maximum))
    return codes, scale


def scale_of(amax: Tensor, maximum: float) -> Tensor:
    """Float32 scale that maps amax to the largest code; never so small that dividing by it overflows."""
    return (amax.float() / maximum).clamp_(min=TINY)


def to_codes(x: Tensor, scale: Tensor) -> Tensor:
    # float32 by promotion; a NaN passes through the clamp and has a code of its own
    return x.div(scale).clamp_(-ACTIVATION.maximum, ACTIVATION.maximum).to(ACTIVATION.dtype).contiguous()


STATIC, PER_TENSOR, BY_TOKENS = "float8 static", "float8 per-tensor", " by tokens"
SCHEMES: dict[str, Quantize] = {
    STATIC: static,
    STATIC + BY_TOKENS: static_by_tokens,
    "float8 per-token": per_token,
    PER_TENSOR: per_tensor,
    PER_TENSOR + BY_TOKENS: per_tensor_by_tokens,
    "float8 1x128": by_runs,
    "int8 per-token": int8_per_token,
}
# of what takes activations without codes, or makes codes of them itself
AS_THEY_ARE = "as they are"

##### Static scales


def static_scale(input_scale: Tensor, format: Format) -> Tensor:
    """A file's input_scale, made for its own format, as a scale for the codes used here."""
    scale, factor = input_scale.float(), format.maximum / ACTIVATION.maximum
    return scale if factor == 1 else scale * factor


def not_static(input_scale: Tensor | None) -> str | None:
    """Why activations cannot be quantized by a weight's input_scale, or None. Reads it: for planning, not a forward."""
    if input_scale is None:
        return "the file has no input_scale"
    if input_scale.is_meta:
        return "input_scale is on the meta device"
    if input_scale.numel() != 1:
        return f"input_scale has {input_scale.numel()} values, not one"
    value = float(input_scale)
    if value == 1.0:
        return "input_scale is 1, a placeholder"
    # amax of 5e-5 to 5e6: nothing that a Linear is fed lies outside
    return None if 1e-7 < value < 1e4 else f"input_scale is {value:g}, which no activation needs"


def same_device(scale: Tensor | None, x: Tensor) -> Tensor | None:
    """The scale where x is: a scale may have stayed on another device."""
    return scale if scale is None or scale.device == x.device else scale.to(x.device)
