"""A loaded model quantized for a budget: planned from its own weights, then each layer in its format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from comfy.model_patcher import ModelPatcher
from torch.nn import Module

from ...quant.calibration.candidates import Candidate, candidate
from ...quant.calibration.plan import KEEP, Plan, PlanRow
from ...quant.calibration.planner import Model, PlanRequest, plan_model, with_measure
from ...quant.calibration.store import Calibration
from ...quant.nn.component import Account, already, nbytes
from ...quant.nn.stats import LayerStats, Stats
from ...quant.recipes.auto import Pick
from ...quant.recipes.methods import BUDGET
from ...quant.recipes.policy import Policy, recognise
from .calibrations import promises
from .callbacks import settle
from .layers import base_weight
from .parts import note_errors
from .plan import linears
from .proof import proven_formats
from .quantize import quantize_layer, summary, watched
from .watch import PREFIX, unwatched

# attachment of a patcher: the state of its patches, and the plan that was carried out in it
PLAN = "scaled_fp8_plan"


@dataclass(frozen=True)
class Budgeted:
    """What is planned for. policies: by format; notes: what people should know of the candidates."""

    model: ModelPatcher
    request: PlanRequest
    known: Calibration | None
    policies: Mapping[str, Policy]
    notes: tuple[str, ...] = ()

    @property
    def any_policy(self) -> Policy:
        return next(iter(self.policies.values()))


def quantize_for_budget(
    model: ModelPatcher, request: PlanRequest, known: Calibration | None
) -> tuple[ModelPatcher, Stats, Plan, tuple[str, ...]]:
    """A clone with the least error for the budget, what was done, the plan and notes; Refused where none meets it."""
    patched, layers = unwatched(model), list(linears(model))
    family = recognise((f"{name}.weight" for name, _ in layers), request.component)
    policies, notes = proven_formats(model, request, family)
    asked = Budgeted(model, request, known, policies)
    plan = planned(asked, layers)
    done = tuple(carried_out(patched, layer, plan, asked) for layer in watched(layers))
    settle(patched)
    note_errors(patched, decibels(plan))
    patched.set_attachments(PLAN, (patched.patches_uuid, plan))
    stats = summary(Account(Pick(BUDGET, plan.totals()[0]), family), done)
    notes += promises(known, [row.layer for row in plan.rows]) if known else ()
    return patched, replace(stats, format="mixed", granularity="each format's own"), plan, notes


def planned(asked: Budgeted, layers: list[tuple[str, Module]]) -> Plan:
    """The plan from what each format makes of each layer, one layer at a time."""
    if asked.known:
        asked.known.check(short(name) for name, _ in layers)
    tried = [tried_layer(asked, name) for name, _ in watched(layers)]
    found = tuple(one for one in tried if one)
    others = asked.model.model_size() - sum(layer.options[KEEP].bytes for layer in found)
    source = type(asked.model.model.model_config).__name__
    path = asked.known.source.name if asked.known else ""
    return plan_model(with_measure(Model(source, found, others), asked.known, path), asked.request)


def tried_layer(asked: Budgeted, name: str) -> Candidate | None:
    """None for a layer that no format may have."""
    weight = base_weight(asked.model, name)
    shape, before = tuple(weight.shape), already(weight)
    fitting = [policy for policy in asked.policies.values() if policy.decide(short(name), shape, before).quantize]
    if not fitting:
        return None
    record = asked.known.of(short(name), weight.data) if asked.known else None
    return candidate(short(name), weight.data.to(asked.model.load_device), fitting, record, asked.request.effort)


def carried_out(patched: ModelPatcher, layer: tuple[str, Module], plan: Plan, asked: Budgeted) -> LayerStats:
    """One layer in the format that was planned for it, or as it is, with the reason."""
    name, row = layer[0], plan.row(short(layer[0]))
    if row is not None and row.format != KEEP:
        found = quantize_layer(patched, layer, asked.policies[row.format], Pick(BUDGET, ""), asked.known)
        return replace(found, reason=why(row))
    weight = base_weight(patched, name)
    shape, size = tuple(weight.shape), nbytes(weight)
    reason = "planned: as it is" if row else asked.any_policy.decide(short(name), shape, already(weight)).reason
    return LayerStats(
        name=short(name), quantized=False, reason=reason, shape=shape, bytes_before=size, bytes_after=size
    )


def why(row: PlanRow) -> str:
    return f"planned {row.format}: {row.why}"


def decibels(plan: Plan) -> dict[str, float]:
    """Each layer's share of the image's error, as signal to noise."""
    return {row.layer: -20 * math.log10(row.error) for row in plan.rows if row.error > 0}


def plan_of(model: ModelPatcher) -> Plan | None:
    """The plan that a model was quantized by; None for a clone that was patched since."""
    patches, plan = model.get_attachment(PLAN) or (None, None)
    return plan if patches == model.patches_uuid else None


def beside_prediction(model: ModelPatcher, measured: float) -> list[str]:
    """What the plan of a model predicted beside what was measured of it; nothing for one without a plan."""
    plan = plan_of(model)
    if plan is None:
        return []
    return [f"The plan for this budget predicted an error of {plan.error:.4f}; measured is {measured:.4f}."]


def short(name: str) -> str:
    return name.removeprefix(PREFIX)
