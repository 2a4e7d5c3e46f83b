"""Who quantizes a layer of plain torch: torchao with its own tensors, or this package's patched layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn

from ..errors import Refused, named, one_of
from ..kernels.mode import Mode
from ..kernels.timing import noise
from ..recipes.methods import Method
from ..recipes.policy import Policy
from ..weights.encode import quantize
from ..weights.granularity import Granularity, PerGroup, PerRow, PerTensor
from ..weights.job import Search
from .convolution import CONVOLUTIONS, quantize_convolution
from .matching import unfit
from .patch import frozen, planned, put, reads_as, scaled_class

BACKENDS = ("auto", "torchao", "patched")
Place = tuple[torch.device, torch.dtype]
ANSWERS_WITHIN = 0.2  # relative error of a small Linear; a wrong scale is above 0.5


@dataclass(frozen=True)
class Backend:
    """quantize: (layer, name, policy, search) -> why the layer is left as it was, or None."""

    name: str
    quantize: Callable[[nn.Module, str, Policy, Search | None], str | None]


def pick_backend(
    name: str, method: Method, granularity: Granularity, place: Place, component: str
) -> tuple[Backend, str]:
    """Who quantizes a module's layers: the backend of that name, or for auto the first that can, and why."""
    one_of("backend", name, BACKENDS)
    if name == "patched":
        return patched(method), "as asked"
    problem = torchao_problem(method, granularity, place, component)
    if problem is None:
        return torchao(method, granularity), "as asked" if name == "torchao" else f"{method.torchao} runs on {place[0]}"
    if name == "torchao":
        raise Refused(f"backend 'torchao' cannot do {method.name} here: {problem}; choose patched or auto.")
    return patched(method), f"torchao: {problem}"


##### This package's layers


def patched(method: Method) -> Backend:
    """This package as the backend: layers of torch modules get scaled weights in place."""

    def quantize_layer(layer: nn.Module, name: str, policy: Policy, search: Search | None) -> str | None:
        if isinstance(layer, CONVOLUTIONS):
            return quantize_convolution(layer, name, policy, search)
        assert isinstance(layer, nn.Linear)
        return patch_for_good(layer, name, policy, search, method.compute)

    return Backend("patched", quantize_layer)


def patch_for_good(linear: nn.Linear, name: str, policy: Policy, search: Search | None, compute: str) -> str | None:
    """Give linear a scaled weight; the one it had is gone."""
    weight = quantize(linear.weight.detach(), policy.format, policy.granularity, name, search)
    if problem := unfit(weight, linear):
        return problem
    weight, patch = planned(linear, weight, Mode(compute), object())
    resident = frozen(weight, reads_as(linear), name)
    put(linear, scaled_class(patch.base), resident, replace(patch, original=None))
    return None


##### torchao


def torchao(method: Method, granularity: Granularity) -> Backend:
    """torchao as the backend: its quantize_ puts tensors of its own into a torch module's layer."""

    def quantize_layer(layer: nn.Module, name: str, policy: Policy, search: Search | None) -> str | None:
        if search is not None:
            raise Refused("backend 'torchao' has no search for scales; choose patched.")
        convert(layer, method, granularity)
        # it returns the weight as it was where it cannot, and says nothing
        same = type(layer.weight.data) is torch.Tensor
        return f"torchao's {method.torchao} leaves {list(layer.weight.shape)} as it is" if same else None  # type: ignore[arg-type]

    return Backend("torchao", quantize_layer)


def convert(layer: nn.Module, method: Method, granularity: Granularity) -> None:
    from torchao.quantization import quantize_

    config = torchao_config(method, granularity)
    quantize_(layer, config, filter_fn=lambda module, _: module is layer)


def torchao_config(method: Method, granularity: Granularity) -> Any:
    """The argument of torchao's quantize_ for a Linear module, for the config that the method names."""
    import torchao.quantization as ao

    options: dict[str, Any] = {"set_inductor_config": False}
    if not isinstance(granularity, PerGroup):
        options["granularity"] = ao.PerTensor() if isinstance(granularity, PerTensor) else ao.PerRow()
    return getattr(ao, str(method.torchao))(**options)


def torchao_problem(method: Method, granularity: Granularity, place: Place, component: str) -> str | None:
    """Why torchao cannot quantize a module's layers so on this device, or None."""
    if method.torchao is None:
        return f"it has no {method.name}"
    if component == "vae":
        return "its weight-only configs leave convolutions"
    if not isinstance(granularity, (PerTensor, PerRow, PerGroup)):
        return f"it has no {granularity.name} scales for this"
    if place[0].type == "cpu" and method.compute == "auto" and method.format.dtype.is_floating_point:
        return "it refuses dynamic FP8 on a CPU"
    return tried(method, granularity, place)


@cache
@torch.no_grad()
def tried(method: Method, granularity: Granularity, place: Place) -> str | None:
    """Why torchao cannot, by quantizing and running a small nn.Linear on the device; None where it is right."""
    device, dtype = place
    linear = nn.Linear(256, 128, bias=False, device="meta").to_empty(device=device).to(dtype)
    linear.weight.copy_(noise(128, 256, device=device) / 16)
    x = noise(32, 256, device=device).to(dtype)
    try:
        expected = linear(x).float()
        convert(linear, method, granularity)
        error = float((linear(x).float() - expected).norm() / expected.norm())
    except Exception as problem:  # whatever it throws is the answer
        return named(problem)
    return None if error < ANSWERS_WITHIN else f"wrong on {device}: relative error {error:.2g}"
