"""A loaded model quantized for a budget: planned from its own weights, then each layer in its format."""

from __future__ import annotations

import math
from dataclasses import replace

from comfy.model_patcher import ModelPatcher
from torch.nn import Module

from ...quant.calibration.candidates import Candidate, candidate
from ...quant.calibration.plan import KEEP, Plan, PlanRow
from ...quant.calibration.planner import Model, Wish, plan_model, told
from ...quant.nn.component import nbytes
from ...quant.nn.stats import LayerStats, Stats
from ...quant.recipes.auto import Pick
from ...quant.recipes.methods import BUDGET
from ...quant.recipes.policy import Policy, recognise
from .layers import base_tensor, settle
from .quantize import Recipe, already, candidates, quantize_layer, summary, watched

ERRORS = "scaled_fp8_errors"  # attachment: layer -> dB, for the panel


def quantize_for_budget(model: ModelPatcher, recipe: Recipe, wish: Wish) -> tuple[ModelPatcher, Stats, Plan]:
    """A clone with the least error for the budget, what was done, and the plan; Refused where none meets it."""
    patched, layers = model.clone(), list(candidates(model, recipe.component))
    family = recognise((f"{name}.weight" for name, _ in layers), recipe.component)
    policies = {policy.format.name: policy for policy in wish.policies(family)}
    plan = planned(model, layers, recipe, wish, tuple(policies.values()))
    chosen = Pick(BUDGET, plan.totals()[0])
    done = tuple(carried_out(patched, layer, plan, policies, recipe) for layer in watched(layers))
    settle(patched)
    patched.set_attachments(ERRORS, decibels(plan))
    stats = replace(summary(chosen, None, family, done), format="mixed", granularity="as planned")
    return patched, stats, plan


def planned(
    model: ModelPatcher, layers: list[tuple[str, Module]], recipe: Recipe, wish: Wish, policies: tuple[Policy, ...]
) -> Plan:
    """The plan from what each format makes of each layer, one layer at a time."""
    known, names = recipe.calibration, [short(name) for name, _ in layers]
    if known:
        known.check(names)
    tried = [tried_layer(model, layer, recipe, wish, policies) for layer in watched(layers)]
    found = tuple(one for one in tried if one)
    others = model.model_size() - sum(layer.options[KEEP].bytes for layer in found)
    source = type(model.model.model_config).__name__ if hasattr(model.model, "model_config") else "this model"
    return plan_model(told(Model(source, found, others), known, known.source.name if known else ""), wish)


def tried_layer(
    model: ModelPatcher, layer: tuple[str, Module], recipe: Recipe, wish: Wish, policies: tuple[Policy, ...]
) -> Candidate | None:
    """None for a layer that no format may have."""
    name, weight = short(layer[0]), base_tensor(model, layer[0])
    shape, before = tuple(weight.shape), already(weight)
    if not any(policy.decide(name, shape, before).quantize for policy in policies):
        return None
    known = recipe.calibration
    record = known.of(name, weight.data) if known else None
    return candidate(name, weight.data.to(model.load_device), policies, record, wish.effort)


def carried_out(
    patched: ModelPatcher, layer: tuple[str, Module], plan: Plan, policies: dict[str, Policy], recipe: Recipe
) -> LayerStats:
    name, row = layer[0], plan.row(short(layer[0]))
    if row is None or row.format == KEEP:
        reason = "planned: as it is" if row else reason_of(patched, name, policies)
        weight = base_tensor(patched, name)
        return LayerStats(short(name), False, reason, tuple(weight.shape), nbytes(weight), nbytes(weight))
    found = quantize_layer(patched, layer, policies[row.format], Pick(BUDGET, ""), recipe.calibration)
    return replace(found, reason=why(row)) if found.quantized else found


def reason_of(patched: ModelPatcher, name: str, policies: dict[str, Policy]) -> str:
    """Why a layer was not planned for."""
    weight = base_tensor(patched, name)
    return next(iter(policies.values())).decide(short(name), tuple(weight.shape), already(weight)).reason


def why(row: PlanRow) -> str:
    return f"planned {row.format}: {row.why}"


def decibels(plan: Plan) -> dict[str, float]:
    """Each layer's share of the image's error, as signal to noise."""
    return {row.layer: -20 * math.log10(row.error) for row in plan.rows if row.error > 0}


def short(name: str) -> str:
    return name.removeprefix("diffusion_model.")
