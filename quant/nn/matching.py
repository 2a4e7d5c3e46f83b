"""Which weight of a checkpoint is for which Linear of a module, and whether it can stand in for the Linear's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from ..distributed.parallel import is_parallel, local, place_in_mesh
from ..distributed.parts import part
from ..errors import Refused
from ..names import MODEL
from ..patterns import compiled
from ..text import few
from ..weights.weight import QuantizedWeight
from .linear import Patch, ScaledLinear

SHOWN = 5


def selected(checkpoint: Mapping[str, QuantizedWeight], layers: str) -> list[str]:
    pattern = compiled(layers, "layers")
    names = [name for name in checkpoint if pattern.search(name)]
    if not names:
        raise Refused(f"layers {layers!r} matches none of the checkpoint's {len(checkpoint)} weights; choose others.")
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
            raise Refused(f"{name}: is for the same Linear as {other}; leave one out by layers.")
    return {name: found[name][0] for name in first.values()}


def candidates(name: str, linears: Mapping[str, nn.Linear]) -> list[nn.Linear]:
    """The Linears that a checkpoint's name may mean: the one of that name, or those that differ by a known prefix."""
    if name in linears:
        return [linears[name]]
    shorter = [name.removeprefix(prefix) for prefix in MODEL if name.startswith(prefix)]
    those = [linears[other] for other in (*shorter, *(prefix + name for prefix in MODEL)) if other in linears]
    return list({id(linear): linear for linear in those}.values())


def own_part(checkpoint: Mapping[str, QuantizedWeight], name: str, linear: nn.Linear) -> QuantizedWeight:
    """A checkpoint's weight; of a Linear that lies on several devices the part of this one, which alone is read."""
    parameter = linear._parameters.get("weight")
    if not is_parallel(parameter):
        return checkpoint[name]
    dim, share = place_in_mesh(parameter)  # type: ignore[arg-type]
    if getattr(checkpoint, "share", None) is not None:
        return checkpoint.part(name, dim)  # type: ignore[attr-defined]
    whole = checkpoint[name]
    return part(whole, dim, *share.span(whole.shape[dim]))


def fitting(name: str, weight: QuantizedWeight, linear: nn.Linear) -> QuantizedWeight:
    """The weight where linear's is, once it is sure that it can stand in for it."""
    if problem := unfit(weight, linear):
        raise Refused(f"{name}: {problem}")
    parameter = linear.weight
    device = parameter.device_mesh.device_type if is_parallel(parameter) else parameter.device  # type: ignore[attr-defined]
    return weight.to(device)


def unfit(weight: QuantizedWeight, linear: nn.Linear) -> str | None:
    """Why a weight cannot take the place of a module's own, or None."""
    parameter = original(linear)
    if parameter is None:
        return "computes its weight from others (parametrization or weight norm); remove that first."
    if nn.parameter.is_lazy(parameter) or (parameter.is_meta and not is_parallel(parameter)):
        return "has no weight yet (meta device or lazy); load the module's weights first."
    if "forward" in vars(linear):
        return "has a forward set on the instance, which would go around the patch; remove that first."
    here = local(parameter).shape
    if tuple(here) != weight.shape:
        return f"is {list(here)} in the module, {list(weight.shape)} in the checkpoint; they are not one model."
    return None


def original(linear: nn.Linear) -> nn.Parameter | None:
    patch = patch_of(linear)
    return patch.original if patch and patch.original is not None else linear._parameters.get("weight")


def patch_of(linear: nn.Linear) -> Patch | None:
    return linear.scaled if isinstance(linear, ScaledLinear) else None
