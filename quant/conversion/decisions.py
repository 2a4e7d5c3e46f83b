"""What becomes of each tensor of a checkpoint: quantized, cast or left as it is, each with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch

from ..calibration.plan import Plan
from ..checkpoint.keys import ROLES, SUFFIXES, split
from ..checkpoint.metadata import quantization_config
from ..checkpoint.read import Checkpoint
from ..errors import Refused, one_of
from ..recipes.ignored import ignored_by
from ..recipes.parts import Scopes, check_read_by_core, find_scopes
from ..recipes.policy import Policy
from ..text import few
from ..weights.formats import FORMATS
from ..weights.job import search_for
from .calibrating import carried_out, encoding
from .quantizing import Encode
from .request import Request
from .tasks import Cast, Pass, Task
from .values import Values, format_of

# what a file can be converted to without quantizing it
HIGH_PRECISION: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
QUANTIZABLE = ("F64", "F32", "F16", "BF16")
# roles of companions that change what their weight means
MEANING = {role.name for role in ROLES} - {"weight", "bias", "marker"}


def check_format(request: Request) -> None:
    if request.format is not None:
        one_of("format", request.format, (*FORMATS, *HIGH_PRECISION))
    search_for(request.effort)


def planned(ckpt: Checkpoint, request: Request) -> tuple[list[Task], tuple[str, ...]]:
    """The tasks of a conversion, in the order of the source, and a line for each part of the checkpoint."""
    if request.format in HIGH_PRECISION:
        dtype = HIGH_PRECISION[request.format or ""]
        layers: list[Task] = [Cast(values_of(ckpt, name), dtype, "dequantized") for name in ckpt]
        rest = [plain(ckpt, name, dtype) for name in ckpt.tensors]
        return layers + rest, (f"every floating tensor: {request.format}",)
    if request.calibration:
        request.calibration.check(name.removesuffix(".weight") for name in (*ckpt, *ckpt.tensors))
    if request.plan:
        return by_plan(ckpt, request.plan, request)
    request = replace(request, ignored=(*request.ignored, *ignored_by(quantization_config(ckpt.source))))
    scopes = find_scopes(ckpt.shapes(), request)
    tasks = [quantized(ckpt, name, scopes, request) for name in ckpt]
    fixed = with_companions(ckpt.tensors)
    tasks += [beside(ckpt, n) if n in fixed else other(ckpt, n, scopes, request) for n in ckpt.tensors]
    return tasks, tuple(scope.line() for scope in scopes.found.values())


def check_accounted(ckpt: Checkpoint) -> None:
    """Refused where a tensor of the source would be neither in a layer of the result nor in it as it is."""
    if ckpt.unaccounted:
        raise Refused(
            f"{ckpt.source.name}: {few(ckpt.unaccounted, 3)} would be lost: another tensor goes by that name."
        )


def with_companions(names: Iterable[str]) -> set[str]:
    """Weights beside which tensors lie that say what they mean, so that they cannot become others."""
    parts = (split(name) for name in names)
    return {f"{module}.weight" if module else "weight" for module, suffix in parts if says_more(suffix)}


def says_more(suffix: str) -> bool:
    """Whether a tensor of this suffix changes what ``.weight`` beside it means, or is another weight."""
    role = SUFFIXES.get(suffix)
    return role in MEANING or (role == "weight" and suffix != ".weight")


def values_of(ckpt: Checkpoint, layer: str) -> Values:
    return Values(ckpt, ckpt.weight_key(layer), layer)


def plain(ckpt: Checkpoint, name: str, dtype: torch.dtype) -> Cast:
    floating = ckpt.tensors.info(name).dtype in FLOATING
    return Cast(Values(ckpt, name), dtype if floating else None, "cast" if floating else "not floating")


def quantized(ckpt: Checkpoint, layer: str, scopes: Scopes, request: Request) -> Task:
    """A layer that is quantized already: left alone, unless that is asked for."""
    key, spec = ckpt.weight_key(layer), ckpt.spec(layer)
    if request.requantize:
        decision = scopes.of(key).decide(layer, spec.full_shape)
        policy = scopes.of(key).policy
        if decision.quantize and policy:
            return encoded(values_of(ckpt, layer), policy, f"requantized: {decision.reason}", request)
        return Cast(values_of(ckpt, layer), torch.bfloat16, decision.reason)
    if not key.endswith("weight"):
        return Cast(values_of(ckpt, layer), torch.bfloat16, "a parameter without a layer: dequantized")
    already = format_of(ckpt, layer)
    return Pass(ckpt, layer, f"already {already}: left as it is")


def beside(ckpt: Checkpoint, name: str) -> Cast:
    return Cast(Values(ckpt, name), None, "kept: tensors beside it say more of its meaning than is known here")


def other(ckpt: Checkpoint, name: str, scopes: Scopes, request: Request) -> Task:
    """The task of a tensor in high precision: quantized where its scope decides so, else left as it is."""
    values = Values(ckpt, name)
    if not name.endswith("weight") or values.info.dtype not in QUANTIZABLE or len(values.info.shape) < 2:
        return Cast(values, None, "")
    scope = scopes.of(name)
    decision = scope.decide(name.removesuffix(".weight"), values.info.shape)
    if decision.quantize and scope.policy:
        return encoded(values, scope.policy, decision.reason, request)
    return Cast(values, None, decision.reason)


def encoded(values: Values, policy: Policy, reason: str, request: Request) -> Encode:
    return encoding(values, policy, reason, request.effort, request.calibration)


def by_plan(ckpt: Checkpoint, plan: Plan, request: Request) -> tuple[list[Task], tuple[str, ...]]:
    """What a plan says, for the layers that are not quantized yet; Refused where core would not read the scales."""
    of = request.component or "transformer"
    check_read_by_core(ckpt.shapes(), of, request)
    encode = partial(encoded, request=request)
    tasks: list[Task] = [Pass(ckpt, name, "quantized already: left as it is") for name in ckpt]
    tasks += carried_out(ckpt, plan, of, encode)
    return tasks, tuple(plan.totals())
