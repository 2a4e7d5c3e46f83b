"""From what each layer may become to what it does: the least error for a budget of bytes, or the other way round.

Errors of layers add in squares, so that the choice is a multiple-choice knapsack of their squares (as such: Chen et
al., arXiv 2110.06554, who estimate them by the loss's Hessian; here they are of the layers' outputs).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt

from ..checkpoint.read import Checkpoint, read_checkpoint
from ..errors import Refused
from ..files.stored import Source
from ..names import without_prefixes
from ..recipes.families import Family
from ..recipes.policy import Policy, family_named, recognise
from ..weights.formats import Format
from .budget import Budget, budget_of, size_text
from .candidates import KEEP, Candidate, candidate, formats_of, image_error
from .curve import CHOSEN, MIXED, UNIFORM, Curve, Point
from .plan import Plan, PlanRow
from .solver import fewest_bytes, lagrangian, least_cost
from .store import Calibration, read_calibration

POINTS = 16  # of the curve
FLOATING = ("F64", "F32", "F16", "BF16")
Progress = Callable[[Iterable[str], int], Iterable[str]]


@dataclass(frozen=True)
class PlanRequest:
    """What is asked of a plan. formats: names, none for the usual; keep: regular expression of layers left alone."""

    budget: str
    formats: tuple[str, ...] = ()
    keep: str = ""
    family: str | None = None
    effort: str = "best"
    component: str = "transformer"

    def policies(self, family: Family | None) -> tuple[Policy, ...]:
        """The rules for each format, the family's where it has some."""
        return tuple(self.policy(format, family) for format in formats_of(self.formats))

    def policy(self, format: Format, family: Family | None) -> Policy:
        return Policy(format, format.granularities[0], self.component, family, self.keep)


@dataclass(frozen=True)
class Model:
    """What a plan is for. candidates: the layers it chooses for; others: bytes of all the rest; source: for people."""

    source: str
    candidates: tuple[Candidate, ...]
    others: int
    calibration: str = ""
    measure: str = "errors of weights"

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.candidates)


def plan_model(model: Model, request: PlanRequest) -> Plan:
    """The plan for a budget; Refused, with the range, where no choice meets it."""
    if not model.candidates:
        raise Refused(f"{model.source}: has no layer that may be quantized; nothing is left to plan.")
    budget = budget_of(request.budget)
    names = [list(layer.options) for layer in model.candidates]
    options = [
        [(float(layer.options[name].bytes), layer.cost(name)) for name in known]
        for layer, known in zip(model.candidates, names, strict=True)
    ]
    picked = chosen(model, options, budget)
    formats = [known[index] for known, index in zip(names, picked, strict=True)]
    rows = tuple(row(layer, format) for layer, format in zip(model.candidates, formats, strict=True))
    final = point(model, formats, CHOSEN, str(budget))
    curve = Curve((*mixed(model, names, options), *uniform(model), final))
    return Plan(
        source=model.source,
        budget=str(budget),
        calibration=model.calibration,
        measure=model.measure,
        error=final.error,
        bytes=final.bytes,
        bits=final.bits,
        rows=rows,
        curve=curve,
    )


def chosen(model: Model, options: list[list[tuple[float, float]]], budget: Budget) -> list[int]:
    """The index of each layer's format that a budget buys."""
    if budget.kind == "error":
        most = sqrt(sum(max(cost for _, cost in known) for known in options))
        if not budget.amount:
            raise Refused(
                f"budget {budget}: only the model as it is has no error; errors above 0, to {most:.3g}, are possible."
            )
        check(budget, budget.amount, (0.0, most), "errors", lambda value: f"{value:.3g}")
        return fewest_bytes(options, budget.amount**2)
    least, most = (sum(pick(size for size, _ in known) for known in options) for pick in (min, max))
    if budget.kind == "bits":
        per = model.weights / 8
        check(budget, budget.amount, (least / per, most / per), "bits a weight", lambda value: f"{value:.2f}")
        return least_cost(options, budget.amount * per)
    spans = (least + model.others, most + model.others)
    check(budget, budget.amount, spans, "sizes of the whole model", size_text)
    return least_cost(options, budget.amount - model.others)


def check(budget: Budget, amount: float, span: tuple[float, float], what: str, text: Callable[[float], str]) -> None:
    if not span[0] <= amount <= span[1]:
        where = "below" if amount < span[0] else "above"
        raise Refused(
            f"budget {budget}: is {where} what these formats allow; {what} from {text(span[0])} to {text(span[1])} "
            "are possible."
        )


def row(layer: Candidate, format: str) -> PlanRow:
    """What a plan says of one layer."""
    found = layer.options[format]
    error = sqrt(layer.cost(format))
    return PlanRow(
        layer=layer.name, format=format, granularity=found.granularity, bytes=found.bytes, error=error, why=found.way
    )


##### The curve


def point(model: Model, formats: Sequence[str], kind: str, name: str) -> Point:
    """What a choice of formats takes and costs."""
    pairs = list(zip(model.candidates, formats, strict=True))
    size = sum(layer.options[format].bytes for layer, format in pairs)
    error = image_error(layer.cost(format) for layer, format in pairs)
    return Point(kind, name, size * 8 / model.weights, size + model.others, error)


def uniform(model: Model) -> Iterator[Point]:
    """One format for all layers that it fits; the others stay."""
    names = dict.fromkeys(name for layer in model.candidates for name in layer.options)
    for name in names:
        formats = [name if name in layer.options else KEEP for layer in model.candidates]
        yield point(model, formats, UNIFORM, "as it is" if name == KEEP else name)


def mixed(model: Model, names: list[list[str]], options: list[list[tuple[float, float]]]) -> Iterator[Point]:
    """The least error for budgets from the smallest to the largest."""
    low, high = (sum(pick(size for size, _ in known) for known in options) for pick in (min, max))
    for step in range(POINTS):
        room = low + (high - low) * (step / (POINTS - 1)) ** 2  # closer where the formats are
        picked = lagrangian(options, room)
        yield point(model, [known[i] for known, i in zip(names, picked, strict=True)], MIXED, "")


##### Of a file


def plan_checkpoint(
    src: str | os.PathLike[str] | Source,
    request: PlanRequest,
    calibration: str | os.PathLike[str] | None = None,
    progress: Progress = lambda names, count: names,
) -> Plan:
    """The plan of a file for ``scaled-fp8 convert --plan``; one layer in memory at a time."""
    budget_of(request.budget)
    return plan_model(weighed(src, request, calibration, progress), request)


def weighed(
    src: str | os.PathLike[str] | Source,
    request: PlanRequest,
    calibration: str | os.PathLike[str] | None = None,
    progress: Progress = lambda names, count: names,
) -> Model:
    """What each format would make of each layer of a file, for plans of any budget."""
    ckpt, known = read_checkpoint(src), read_calibration(calibration) if calibration else None
    names = [name for name in ckpt.tensors if name.endswith(".weight")]
    family = family_named(request.family) if request.family else recognise(names, request.component)
    policies = request.policies(family)
    chosen = [name for name in names if plannable(ckpt, name, policies)]
    if known:
        known.check(name.removesuffix(".weight") for name in chosen)
    layers = tuple(tried(ckpt, name, policies, known, request) for name in progress(chosen, len(chosen)))
    others = ckpt.source.total_bytes - sum(layer.options[KEEP].bytes for layer in layers)
    model = Model(ckpt.source.name, layers, others)
    return with_measure(model, known, os.fspath(calibration) if calibration else "")


def plannable(ckpt: Checkpoint, name: str, policies: Iterable[Policy]) -> bool:
    """Whether a weight may become one of the formats."""
    info = ckpt.tensors.info(name)
    if info.dtype not in FLOATING or len(info.shape) != 2:
        return False
    return any(policy.decide(name.removesuffix(".weight"), info.shape).quantize for policy in policies)


def tried(
    ckpt: Checkpoint, key: str, policies: Sequence[Policy], known: Calibration | None, request: PlanRequest
) -> Candidate:
    name, weight = key.removesuffix(".weight"), ckpt.tensors[key]
    record = known.of(name, weight) if known else None
    return candidate(without_prefixes(name), weight, policies, record, request.effort)


def with_measure(model: Model, known: Calibration | None, path: str) -> Model:
    """With where the errors are from."""
    if known is None:
        return model
    factors = sum(has_factor(known, layer.name) for layer in model.candidates)
    measure = "measured sensitivity" if factors == len(model.candidates) else "moments of the inputs"
    return replace(model, calibration=path, measure=measure)


def has_factor(known: Calibration, name: str) -> bool:
    return f"{name}.factor" in known.source
