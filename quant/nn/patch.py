"""Scaled weights into any torch module, and out again without a trace."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import Refused
from ..kernels.plan import Choice, check_names, require
from ..names import MODEL
from ..text import few
from ..weights.weight import QuantizedWeight
from .linear import Patch, ScaledLinear, frozen, scaled_class
from .report import Report, report_choices

SHOWN = 5


@dataclass(frozen=True, eq=False)
class Handle:
    """The layers that one call of patch_linears patched. Restores them on leaving a ``with``."""

    patches: Mapping[str, Patch]
    modules: Mapping[str, nn.Linear]
    token: object

    def report(self) -> Report:
        """What runs where and why; also after restore."""
        return report_choices(
            (name, choice) for name, patch in self.patches.items() for choice in ran_or_planned(patch)
        )

    def restore(self) -> None:
        """Every layer as it was. Layers that were patched again since belong to the later handle and stay."""
        for linear in self.modules.values():
            patch = patch_of(linear)
            if patch is not None and patch.token is self.token:
                restore_linear(linear, patch)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


def ran_or_planned(patch: Patch) -> list[Choice]:
    """The choices that ran, or the planned one where none has run."""
    choices = list(patch.choices.values())
    return [choice for choice in choices if choice.calls] or choices[:1]


def patch_linears(
    module: nn.Module,
    checkpoint: Mapping[str, QuantizedWeight],
    compute: str = "auto",
    activation_scale: str = "dynamic",
    layers: str = ".*",
) -> Handle:
    """Give each Linear of module its weight of checkpoint (module name -> QuantizedWeight); all of them or none.

    Names match exactly or but for a known prefix; layers: a regular expression searched in checkpoint's names.
    A layer patched before is patched anew from its original weight: the last call wins, nothing stacks.
    """
    check_names(compute, activation_scale)
    linears = matched(module, selected(checkpoint, layers))
    weights = {name: fitting(name, checkpoint[name], linear) for name, linear in linears.items()}
    token = object()
    patches = {
        name: planned(linear, weights[name], (compute, activation_scale), token) for name, linear in linears.items()
    }
    require((patch.choices[key] for patch in patches.values() for key in patch.choices), compute)
    install(linears, weights, patches)
    return Handle(patches, linears, token)


def restore_linears(module: nn.Module) -> None:
    """Every scaled Linear inside module as it was, whoever patched it: for copies, to which no handle belongs."""
    for linear in module.modules():
        if isinstance(linear, nn.Linear) and (patch := patch_of(linear)):
            restore_linear(linear, patch)


##### Which weight for which Linear


def selected(checkpoint: Mapping[str, QuantizedWeight], layers: str) -> list[str]:
    try:
        names = [name for name in checkpoint if re.search(layers, name)]
    except re.error as problem:
        raise Refused(f"layers {layers!r} is not a regular expression: {problem}.") from None
    if not names:
        raise Refused(f"layers {layers!r} matches none of the checkpoint's {len(checkpoint)} weights.")
    return names


def matched(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Linear]:
    """Checkpoint's name -> the Linear it is for; each name has one, and no Linear has two."""
    linears = {name: m for name, m in module.named_modules(remove_duplicate=False) if isinstance(m, nn.Linear)}
    found = {name: candidates(name, linears) for name in names}
    if lost := [name for name, those in found.items() if len(those) != 1]:
        raise Refused(
            f"{len(lost)} of {len(found)} weights match no Linear or several of {type(module).__name__}: "
            f"{few(lost, SHOWN)}; give the module they were made for, or leave them out by layers."
        )
    first: dict[int, str] = {}
    for name, (linear,) in found.items():
        other = first.setdefault(id(linear), name)
        if other != name:
            raise Refused(f"Weights {other!r} and {name!r} are both for one Linear; leave one out by layers.")
    return {name: found[name][0] for name in first.values()}


def candidates(name: str, linears: Mapping[str, nn.Linear]) -> list[nn.Linear]:
    """The Linears that a checkpoint's name may mean: the one of that name, or those that differ by a known prefix."""
    if name in linears:
        return [linears[name]]
    shorter = [name.removeprefix(prefix) for prefix in MODEL if name.startswith(prefix)]
    those = [linears[other] for other in (*shorter, *(prefix + name for prefix in MODEL)) if other in linears]
    return list({id(linear): linear for linear in those}.values())


def fitting(name: str, weight: QuantizedWeight, linear: nn.Linear) -> QuantizedWeight:
    """The weight where linear's is, once it is sure that it can stand in for it."""
    if problem := unfit(weight, linear):
        raise Refused(f"Layer {name!r} {problem}")
    return weight.to(linear.weight.device)


def unfit(weight: QuantizedWeight, linear: nn.Linear) -> str | None:
    parameter = original(linear)
    if parameter is None:
        return "computes its weight from others (parametrization or weight norm); remove that first."
    if nn.parameter.is_lazy(parameter) or parameter.is_meta:
        return "has no weight yet (meta device or lazy); load the module's weights first."
    if "forward" in vars(linear):
        return "has a forward set on the instance, which would go around the patch; remove that first."
    if tuple(parameter.shape) != weight.shape:
        return (
            f"is {list(parameter.shape)} in the module, {list(weight.shape)} in the checkpoint; they are not one model."
        )
    return None


def original(linear: nn.Linear) -> nn.Parameter | None:
    patch = patch_of(linear)
    return patch.original if patch else linear._parameters.get("weight")


##### In and out


def patch_of(linear: nn.Linear) -> Patch | None:
    return linear.scaled if isinstance(linear, ScaledLinear) else None


def planned(linear: nn.Linear, weight: QuantizedWeight, request: tuple[str, str], token: object) -> Patch:
    """The patch of one Linear, with the kernel for activations of the weight's own dtype and device."""
    place = (weight.codes.device, reads_as(linear))
    if before := patch_of(linear):
        patch = Patch(before.base, before.original, before.placed, token, *request)
    else:
        patch = Patch(type(linear), linear._parameters["weight"], place, token, *request)  # type: ignore[arg-type]
    patch.choice(weight, *place)
    return patch


def reads_as(linear: nn.Linear) -> torch.dtype:
    """The dtype of the weight, never a float8: others read it to cast their activations."""
    floats = [p.dtype for p in (linear.weight, linear.bias) if p is not None and p.dtype.itemsize > 1]
    return floats[0] if floats else torch.bfloat16


def install(
    linears: Mapping[str, nn.Linear], weights: Mapping[str, QuantizedWeight], patches: Mapping[str, Patch]
) -> None:
    before = [
        (linear, type(linear), linear._parameters["weight"], vars(linear).get("scaled")) for linear in linears.values()
    ]
    try:
        for name, linear in linears.items():
            patch = patches[name]
            put(linear, scaled_class(patch.base), frozen(weights[name], reads_as(linear)), patch)
    except BaseException:
        for state in before:
            put(*state)
        raise


def restore_linear(linear: nn.Linear, patch: Patch) -> None:
    """Class, Parameter and attributes as they were; the Parameter follows where the layer has been moved since."""
    place = (linear.weight.device, linear.weight.dtype)
    if place != patch.placed and not linear.weight.is_meta:
        patch.original.data = patch.original.data.to(*place)
    put(linear, patch.base, patch.original, None)


def put(linear: nn.Linear, cls: type[nn.Linear], weight: nn.Parameter | None, patch: Patch | None) -> None:
    linear.__class__ = cls
    linear._parameters["weight"] = weight
    vars(linear).pop("scaled", None)
    if patch is not None:
        vars(linear)["scaled"] = patch
