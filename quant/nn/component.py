"""Quantize a module of plain torch in place, layer by layer, with an account of what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy_kitchen.tensor import QuantizedTensor
from torch import Tensor, nn

from ..errors import Refused
from ..recipes.auto import Pick, pick
from ..recipes.families import Family
from ..recipes.ignored import ignored_by
from ..recipes.policy import Policy, family_named, recognise
from ..weights.formats import float8_e4m3fn
from ..weights.granularity import PerRow
from ..weights.job import Search
from .backends import Backend, pick_backend
from .convolution import CONVOLUTIONS, is_quantized
from .stats import LayerStats, Stats
from .tensor import from_tensor, is_scaled, tensors_in

##### The work


def quantize_component(
    module: nn.Module,
    method: str = "fp8-dynamic",
    component: str = "transformer",
    granularity: str | None = "per-row",
    backend: str = "auto",
    keep: str = "",
    family: str | None = None,
    search: Search | None = None,
    progress: Callable[[int, int], None] | None = None,
    ignored_layers: Iterable[str] = (),
    verbose: bool = False,
) -> tuple[nn.Module, Stats]:
    """Quantize module's layers in place, and say what was done.

    method: of METHODS; component: "transformer", "encoder" or "vae"; granularity: "per-tensor", "per-row" or "block";
    backend: "torchao", "patched" (this package's Linears) or "auto"; keep: regular expression of layers to leave;
    family: of FAMILIES, recognised by the names of layers without; search: for better scales ("patched" only);
    ignored_layers: names to leave, each with all below it, beside keep and those that module's own config
    (``module.config``) ignores; verbose: print the account;
    progress: called with layers done and in all, after each. An interrupted call leaves whole layers, of either kind.

    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    >>> model, stats = quant.quantize_component(model, "fp8-dynamic", keep="^0$", backend="patched")
    >>> stats.method, [layer.name for layer in stats.layers if layer.quantized]
    ('fp8-dynamic', ['1'])
    """
    place = placed(module)
    chosen = pick(method, *place, component)
    known = family_named(family) if family else recognise((name for name, _ in module.named_parameters()), component)
    before = total_bytes(module)
    if chosen.method.name == "none":
        return module, Account(chosen, known).stats(("none", "nothing to do"), (), (before, before))
    ignored = (*ignored_layers, *own_ignored(module))
    policy = chosen.method.policy(component, granularity, keep, known, ignored)
    engine, reason = pick_backend(backend, chosen.method, policy.granularity, place, component)
    layers = tuple(quantized_layers(module, policy, engine, search, progress))
    stats = Account(chosen, known, policy).stats((engine.name, reason), layers, (before, total_bytes(module)))
    if verbose:
        print(stats.table())  # noqa: T201
    return module, stats


def quantize_vae(module: nn.Module, method: str = "int8", **options: Any) -> tuple[nn.Module, Stats]:
    """Quantize a VAE's convolutions and Linears in place; options of quantize_component."""
    return quantize_component(module, method, "vae", **options)


def own_ignored(module: nn.Module) -> tuple[str, ...]:
    """The layers that a module's own config, of transformers or diffusers, leaves in high precision."""
    config: Any = getattr(getattr(module, "config", None), "quantization_config", None)
    given = config.to_dict() if hasattr(config, "to_dict") else config
    return ignored_by(given) if isinstance(given, dict) else ()


def is_fp8_compatible_layer(layer: nn.Module) -> bool:
    """Whether a layer is a Linear that FP8 GEMMs take: in full precision, and large enough."""
    if not isinstance(layer, nn.Linear) or already_in(layer):
        return False
    return Policy(float8_e4m3fn, PerRow()).unfit(tuple(layer.weight.shape)) is None


@dataclass(frozen=True)
class Account:
    """What was asked for. policy: None where the method leaves everything as it is."""

    chosen: Pick
    family: Family | None
    policy: Policy | None = None

    def stats(self, backend: tuple[str, str], layers: tuple[LayerStats, ...], sizes: tuple[int, int]) -> Stats:
        """With what was done. backend: who did it and why it; sizes: bytes before and after."""
        return Stats(
            method=self.chosen.method.name,
            method_reason=self.chosen.reason,
            format=self.policy.format.name if self.policy else None,
            granularity=self.policy.granularity.name if self.policy else None,
            backend=backend[0],
            backend_reason=backend[1],
            family=self.family.title if self.family else "generic",
            layers=layers,
            bytes_before=sizes[0],
            bytes_after=sizes[1],
        )


def quantized_layers(
    module: nn.Module,
    policy: Policy,
    engine: Backend,
    search: Search | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[LayerStats]:
    """Quantize a module's layers in place, one after another, with an account of each."""
    layers = list(candidates(module.named_modules(), policy.component, is_linear, CONVOLUTIONS))
    for done, (name, layer) in enumerate(layers, 1):
        yield quantized_layer(name, layer, policy, engine, search)
        if progress:
            progress(done, len(layers))


def candidates(
    modules: Iterable[tuple[str, nn.Module]],
    component: str,
    is_linear: Callable[[nn.Module], bool],
    convolutions: tuple[type[nn.Module], ...],
) -> Iterator[tuple[str, nn.Module]]:
    """A module's layers whose weight may be quantized, each once: Linears, and a VAE's convolutions."""
    seen: set[nn.Module] = set()
    for name, module in modules:
        wanted = is_linear(module) or (component == "vae" and isinstance(module, convolutions))
        if wanted and module not in seen:
            seen.add(module)
            yield name or type(module).__name__, module


def is_linear(module: nn.Module) -> bool:
    """Whether plain torch runs this as a Linear, which others only wrap."""
    return isinstance(module, nn.Linear)


def quantized_layer(name: str, layer: nn.Module, policy: Policy, engine: Backend, search: Search | None) -> LayerStats:
    before, shape = total_bytes(layer), tuple(layer.weight.shape)  # type: ignore[union-attr, arg-type]
    decision = policy.decide(name, shape, already_in(layer))
    problem = None if not decision.quantize else engine.quantize(layer, name, policy, search)
    if problem:
        decision = replace(decision, quantize=False, reason=problem)
    return LayerStats(
        name=name,
        quantized=decision.quantize,
        reason=decision.reason,
        shape=shape,
        bytes_before=before,
        bytes_after=total_bytes(layer),
    )


def already_in(layer: nn.Module) -> str:
    """What a layer's weight is quantized to, "" if it is not."""
    return "quantized to int8" if is_quantized(layer) else already(layer.weight)  # type: ignore[arg-type]


def already(weight: Tensor) -> str:
    """What a weight is quantized to, "" if it is not."""
    if is_scaled(weight):
        return f"quantized to {from_tensor(weight).format.name}"
    if isinstance(weight, QuantizedTensor):
        return f"quantized to {weight._layout_cls}"
    if type(weight.data) is not Tensor:
        return f"a {type(weight.data).__name__}"
    return "" if weight.dtype.itemsize > 1 else f"{str(weight.dtype).removeprefix('torch.')} without scales"


def placed(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the module's weights."""
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
    if parameter is None:
        raise Refused(f"{type(module).__name__}: has no weights to quantize; give a module that has.")
    if parameter.is_meta:
        raise Refused(f"{type(module).__name__}: is on the meta device; load its weights first.")
    return parameter.device, parameter.dtype if parameter.dtype.itemsize > 1 else torch.bfloat16


def total_bytes(module: nn.Module) -> int:
    return sum(nbytes(t) for t in (*module.parameters(), *module.buffers()))


def nbytes(tensor: Tensor) -> int:
    """Bytes of a tensor, or of the tensors that it is made of."""
    if is_scaled(tensor):
        return sum(part.nbytes for part in tensors_in(tensor))
    data = tensor.data
    flatten = getattr(data, "__tensor_flatten__", None) if type(data) is not Tensor else None
    if flatten is None:
        return tensor.nbytes
    names, _ = flatten()
    return sum(nbytes(getattr(data, name)) for name in names)
