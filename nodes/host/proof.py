"""Which formats this device has been seen to compute right, by the very layers that a model would get."""

from __future__ import annotations

from functools import cache

import torch
from comfy.model_patcher import ModelPatcher

from ...quant.calibration.planner import PlanRequest
from ...quant.errors import Refused, first_line
from ...quant.recipes.families import Family
from ...quant.recipes.policy import Policy
from ...quant.weights.encode import quantize
from ...quant.weights.formats import Format
from ...quant.weights.granularity import Granularity
from ...quant.weights.native import core_runs
from .layers import own_core_linear
from .plan import activation_dtype

SIDE, TOKENS = 256, 64
MOST = 0.25  # relative error of a layer's output: four bits of both, weights aside, stay at half of it


def proven_formats(
    model: ModelPatcher, request: PlanRequest, family: Family | None
) -> tuple[dict[str, Policy], tuple[str, ...]]:
    """Format -> the rules for it, and why formats are left out; those that the request names are taken at its word."""
    policies = {policy.format.name: policy for policy in request.policies(family)}
    if any(name.strip() for name in request.formats):
        return policies, ()
    place = (model.load_device, activation_dtype(model))
    problems = {name: problem(policy.format, policy.granularity, *place) for name, policy in policies.items()}
    wrong = tuple(f"{name} is left out: {why}." for name, why in problems.items() if why)
    if len(wrong) == len(policies):
        raise Refused(f"No format is computed right on {model.load_device}: {' '.join(wrong)}")
    return {name: policy for name, policy in policies.items() if not problems[name]}, wrong


@cache
def problem(format: Format, granularity: Granularity, device: torch.device, dtype: torch.dtype) -> str:
    """Why core's layer of a format is not to be used on a device, "" if it computes what its weight says.

    This pack's own kernels, which run FP8, are proven where they are chosen.
    """
    generator = torch.Generator().manual_seed(3)
    weight = quantize(torch.randn(SIDE, SIDE, generator=generator) * SIDE**-0.5, format, granularity)
    x = torch.randn(TOKENS, SIDE, generator=generator).to(dtype)
    if not core_runs(weight):
        return ""
    try:
        layer = own_core_linear(weight, dtype, device).to(device)
        got = layer(x.to(device)).float().cpu()
    except Exception as reason:
        return f"its layer raises {first_line(reason)} on {device}"
    want = x.float() @ weight.dequantize().float().T
    off = float((got - want).norm() / want.norm())
    return "" if off < MOST else f"its layer is {off:.2g} off on {device}"
