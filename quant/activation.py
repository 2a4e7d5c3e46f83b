"""Activations to float8 codes: ``[tokens, in] -> (codes, scale)``, always clamped, never in place."""

from __future__ import annotations

from torch import Tensor

from .formats import Format, float8_e4m3fn, scale_from_amax
from .granularity import largest

# e4m3 carries a bit more of an activation than e5m2; its range is what the scale is for
ACTIVATION: Format = float8_e4m3fn


def quantize_activation(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Static with a scale ``[]``, else dynamic per token: codes ``[tokens, in]`` and float32 scale ``[tokens, 1]``."""
    scale = per_token_scale(x) if scale is None else scale.reshape(1, 1).expand(x.shape[0], 1)
    # a NaN passes through the clamp and has a code of its own
    scaled = (x.float() / scale).clamp(-ACTIVATION.maximum, ACTIVATION.maximum)
    return scaled.to(ACTIVATION.dtype).contiguous(), scale.contiguous()


def per_token_scale(x: Tensor) -> Tensor:
    """Float32 ``[tokens, 1]`` that maps each token's amax to the largest code."""
    return scale_from_amax(largest(x, (1,)).unsqueeze(1), ACTIVATION.maximum)


def static_scale(input_scale: Tensor, format: Format) -> Tensor:
    """A file's input_scale, made for its own format, as a scale for the codes used here."""
    return input_scale.float() * (format.maximum / ACTIVATION.maximum)


def implausible(input_scale: Tensor | None) -> str | None:
    """Why an input_scale cannot be trusted, or None. Reads its value: for planning, not for a forward."""
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


__all__ = ["ACTIVATION", "implausible", "per_token_scale", "quantize_activation", "same_device", "static_scale"]
