"""Scaled weights into any torch module, and out again without a trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..distributed.parallel import (
    fsdp_params,
    in_place_of,
    is_parallel,
    kept_of,
    shard_again,
    shard_of,
    spread_like,
    unscaled_class,
)
from ..kernels.choice import Choice
from ..kernels.mode import Mode
from ..kernels.plan import choose_for, choose_held, require
from ..weights.weight import QuantizedWeight
from .linear import Patch, frozen, scaled_class
from .matching import fitting, matched, own_part, patch_of, selected
from .report import Report, report_choices


@dataclass(frozen=True, eq=False)
class Handle:
    """The layers that one call of patch_linears patched. Restores them on leaving a ``with``."""

    patches: Mapping[str, Patch]
    modules: Mapping[str, nn.Linear]
    root: nn.Module
    token: object

    def report(self) -> Report:
        """What runs where and why; also after restore."""
        return report_choices(
            (name, choice) for name, patch in self.patches.items() for choice in ran_or_planned(patch)
        )

    def restore(self) -> None:
        """Every layer as it was. Layers that were patched again since belong to the later handle and stay."""
        sharded = list(fsdp_params(self.root))
        for linear in self.modules.values():
            patch = patch_of(linear)
            if patch is not None and patch.token is self.token:
                restore_linear(linear, patch, sharded)

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

    >>> model = torch.nn.Sequential(torch.nn.Linear(32, 64))
    >>> weights = {"0": quant.quantize(model[0].weight, quant.FORMATS["float8_e4m3fn"])}
    >>> with quant.patch_linears(model, weights, compute="upcast"):
    ...     type(model[0]).__name__, tuple(model(torch.randn(2, 32)).shape)
    ('ScaledLinear', (2, 64))
    >>> type(model[0]).__name__
    'Linear'
    """
    mode = Mode(compute, activation_scale)
    linears = matched(module, selected(checkpoint, layers))
    weights = {name: fitting(name, own_part(checkpoint, name, linear), linear) for name, linear in linears.items()}
    token = object()
    patches = {}
    for name, linear in linears.items():
        weights[name], patches[name] = held(linear, weights[name], mode, token)
    require((patch.choices[key] for patch in patches.values() for key in patch.choices), mode.compute)
    install(linears, weights, patches, list(fsdp_params(module)))
    return Handle(patches, linears, module, token)


def restore_linears(module: nn.Module) -> None:
    """Every scaled Linear inside module as it was, whoever patched it: for copies, to which no handle belongs."""
    sharded = list(fsdp_params(module))
    for linear in module.modules():
        if isinstance(linear, nn.Linear) and (patch := patch_of(linear)):
            restore_linear(linear, patch, sharded)


##### In and out


def held(linear: nn.Linear, weight: QuantizedWeight, mode: Mode, token: object) -> tuple[QuantizedWeight, Patch]:
    """The weight of a checkpoint as the Linear will hold it, and the patch for that."""
    place = (weight.codes.device, reads_as(linear))
    weight, choice = choose_held(weight, *place, mode)
    patch = unplanned(linear, place, mode, token)
    patch.choices[(*place, weight.shape)] = choice
    return patch.arranged(weight), patch


def planned(linear: nn.Linear, weight: QuantizedWeight, mode: Mode, token: object) -> tuple[QuantizedWeight, Patch]:
    """A weight as the Linear will hold it, and the patch, with the kernel for activations of its dtype and device."""
    place = (weight.codes.device, reads_as(linear))
    patch = unplanned(linear, place, mode, token)
    patch.choices[(*place, weight.shape)] = choose_for(weight, *place, mode)
    return patch.arranged(weight), patch


def unplanned(linear: nn.Linear, place: tuple[torch.device, torch.dtype], mode: Mode, token: object) -> Patch:
    """The patch of one Linear of a module before a kernel is chosen."""
    before, now = patch_of(linear), linear._parameters["weight"]
    if before is None:
        return Patch(type(linear), now, place, token, mode)
    if before.original is None:
        return Patch(before.base, now, place, token, mode, below=before)
    return replace(before, token=token, mode=mode, choices={})


def reads_as(linear: nn.Linear) -> torch.dtype:
    """The dtype of the weight, never a float8: others read it to cast their activations."""
    floats = [p.dtype for p in (linear.weight, linear.bias) if p is not None and p.dtype.itemsize > 1]
    return floats[0] if floats else torch.bfloat16


def install(
    linears: Mapping[str, nn.Linear],
    weights: Mapping[str, QuantizedWeight],
    patches: Mapping[str, Patch],
    sharded: Iterable[Any] = (),
) -> None:
    """Patch the Linears: put the weights in; sharded: what FSDP2 keeps of its parameters, of which these are parts."""
    before = [
        (linear, type(linear), linear._parameters["weight"], vars(linear).get("scaled")) for linear in linears.values()
    ]
    try:
        for name, linear in linears.items():
            patch = patches[name]
            kept = kept_of(linear, sharded)
            weight = frozen(weights[name], reads_as(linear), name, shard_of(kept) if kept else None)
            put(linear, scaled_class(patch.base), in_place_of(linear.weight, weight), patch)
            if kept:
                shard_again(kept, linear._parameters["weight"])  # type: ignore[arg-type]
    except BaseException:
        for state in before:
            put(*state)
        raise


def restore_linear(linear: nn.Linear, patch: Patch, sharded: Iterable[Any]) -> None:
    """Take the patch out: class, Parameter and attributes as they were, on the device where the layer is now.

    sharded: what FSDP2 keeps of its parameters; it, or tensor parallelism, goes on with the original cut the same way.
    """
    if patch.original is None:
        return
    weight = linear.weight
    place = (weight.device, weight.dtype)
    if place != patch.placed and not weight.is_meta:
        patch.original.data = patch.original.data.to(*place)
    base = scaled_class(patch.base) if patch.below else patch.base
    put(linear, unscaled_class(linear, base), patch.original, patch.below)
    if kept := kept_of(linear, sharded):
        shard_again(kept, patch.original)
    elif is_parallel(weight) and not is_parallel(patch.original):
        linear._parameters["weight"] = spread_like(patch.original, weight)  # type: ignore[arg-type]


def put(linear: nn.Linear, cls: type[nn.Linear], weight: nn.Parameter | None, patch: Patch | None) -> None:
    linear.__class__ = cls
    linear._parameters["weight"] = weight
    vars(linear).pop("scaled", None)
    if patch is not None:
        vars(linear)["scaled"] = patch
