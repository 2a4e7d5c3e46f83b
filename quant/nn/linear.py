"""A torch Linear with a scaled weight, and its way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed.gathering import Shard
from ..distributed.parallel import is_parallel, local, parallel_linear, spread_tensors
from ..distributed.partial import partial_sum
from ..kernels.choice import Choice
from ..kernels.forward import apply, computed_dtype
from ..kernels.mode import Mode
from ..kernels.moment import InForward
from ..kernels.plan import choose_for
from ..weights.native import PARTS, native_tensors
from ..weights.weight import QuantizedWeight
from .params import NAMES
from .tensor import as_computed, as_stored, from_tensor, is_scaled, part_of, to_tensor


@dataclass(eq=False)
class Patch:
    """What a patched Linear carries: how to go back, and the kernels chosen for it.

    original: the Parameter it had, None where it is gone for good; placed: device and dtype that its weight had when it
    was patched; token: of the handle that owns it; choices: for each device, dtype of activations and shape that it
    has met, the first one planned; below: what it carried before, where that is a weight quantized for good.
    """

    base: type[nn.Linear]
    original: nn.Parameter | None
    placed: tuple[torch.device, torch.dtype]
    token: object
    mode: Mode
    below: Patch | None = None
    choices: dict[tuple[torch.device, torch.dtype, tuple[int, int]], Choice] = field(default_factory=dict)

    def choice(self, weight: QuantizedWeight, device: torch.device, dtype: torch.dtype) -> Choice:
        """The kernel for activations of dtype on device; chosen once."""
        place = (device, dtype, weight.shape)
        if place not in self.choices:
            # this may be the middle of a forward
            with InForward():
                self.choices[place] = choose_for(weight, device, dtype, self.mode)
        return self.choices[place]

    def arranged(self, weight: QuantizedWeight) -> QuantizedWeight:
        """The weight with its parts also as the first planned kernel reads them."""
        return next(iter(self.choices.values())).arranged(weight)


class ScaledLinear(nn.Linear):
    """A Linear whose weight is a scaled tensor that reads as the dtype it had; its class until it is restored."""

    scaled: Patch | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.scaled is None:
            return super().forward(x)
        if is_scaled(self.weight):
            return self.product(x, self.bias)
        if self.is_spread:
            return parallel_linear(x, self.weight, self.bias, self.product, self.partial_product)  # type: ignore[arg-type]
        return super().forward(x)

    @property
    def is_spread(self) -> bool:
        """Whether several devices hold a part of its scaled weight each."""
        return is_parallel(self.weight) and is_scaled(local(self.weight))

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        weight = as_computed(local(self.weight))
        return apply(x, weight, bias, self.choice(weight, x))

    def partial_product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Of some of every token's inputs."""
        weight, mesh = self.quantized(), self.weight.device_mesh  # type: ignore[attr-defined]
        return partial_sum(x, weight, self.choice(weight, x), mesh.get_group())

    def choice(self, weight: QuantizedWeight, x: Tensor) -> Choice:
        assert self.scaled is not None
        return self.scaled.choice(weight, x.device, computed_dtype(x))

    def quantized(self) -> QuantizedWeight:
        """The weight with its codes and scales; of one that lies on several devices, this one's part."""
        return from_tensor(local(self.weight))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScaledLinear:
        # Module sets a parameter's data, which a tensor made of several does not have
        weight, self._parameters["weight"] = self._parameters["weight"], None
        try:
            super()._apply(fn, recurse)
            moved = None if weight is None else nn.Parameter(fn(weight), requires_grad=weight.requires_grad)
        except BaseException:
            moved = weight
            raise
        finally:
            self._parameters["weight"] = moved
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """ComfyUI's own names, so that what is saved of a patched module can be read by anyone."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.scaled is not None and self.is_spread:
            parts = spread_tensors(as_stored(local(self.weight)), self.weight)  # type: ignore[arg-type]
            destination.update({prefix + SPREAD[name]: tensor for name, tensor in parts.items()})
        elif self.scaled is not None and is_scaled(self.weight):
            destination.update(native_tensors(self.quantized(), prefix))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        """The counterpart; a weight without scales is for an unpatched module and is reported as an error."""
        own: set[str] = set()
        if self.scaled is not None and self.is_spread:
            own = self.load_part(state_dict, prefix, missing, errors)
        elif self.scaled is not None and f"{prefix}weight_scale" in state_dict:
            if problem := self.load_whole(state_dict, prefix):
                errors.append(problem)
                return
            own = set(native_tensors(self.quantized(), prefix))
        rest = {name: tensor for name, tensor in state_dict.items() if name not in own}
        super()._load_from_state_dict(rest, prefix, metadata, strict, missing, unexpected, errors)
        if f"{prefix}weight" in own & state_dict.keys():
            missing.remove(f"{prefix}weight")

    def load_whole(self, state_dict: Mapping[str, Tensor], prefix: str) -> str | None:
        """Take another weight of the same kind; why not, or None."""
        weight, own = self.quantized(), native_tensors(self.quantized(), prefix)
        if weight.format.name in PARTS:
            return f"{prefix}weight: {weight.format.name} is loaded by reading the file and patching again."
        if wrong := [name for name in own if name in state_dict and not alike(state_dict[name], own[name])]:
            return f"{', '.join(wrong)}: not of the format and shape that this layer has."
        # copies: what is here now may belong to a checkpoint
        loaded = {name: state_dict[prefix + key].clone() for name, key in STORED.items() if prefix + key in state_dict}
        placed: dict[str, Any] = {
            name: tensor.to(self.weight.device).view_as(getattr(weight, name)) for name, tensor in loaded.items()
        }
        weight = self.scaled.arranged(replace(weight, **placed))  # type: ignore[union-attr]
        self._parameters["weight"] = frozen(weight, self.weight.dtype)
        return None

    def load_part(
        self, state_dict: Mapping[str, Tensor], prefix: str, missing: list[str], errors: list[str]
    ) -> set[str]:
        """A state dict of _save_to_state_dict on as many devices: each own part, copied in place; the names it has."""
        parts = spread_tensors(as_stored(local(self.weight)), self.weight)  # type: ignore[arg-type]
        own = {prefix + SPREAD[name]: tensor for name, tensor in parts.items()}
        for key, tensor in own.items():
            given = local(state_dict[key]) if key in state_dict else None
            if given is None:
                missing.append(key)
            elif not alike(given, local(tensor)):
                errors.append(f"{key}: not of the format, shape and devices that this layer has.")
            elif given.data_ptr() != local(tensor).data_ptr():
                local(tensor).copy_(given)
        return set(own)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """For copy and pickle: neither can take a tensor made of several, nor find the twin of a subclass by name."""
        if self.scaled is None or not is_scaled(self.weight):
            return super().__reduce_ex__(protocol)  # type: ignore[return-value]
        held = (as_computed(self.weight), self.weight.dtype)
        state = {**self.__dict__, "_parameters": {**self._parameters, "weight": None}}
        return bare, (self.scaled.base,), {"state": state, "held": held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state.get("state", state))
        if "held" in state:
            self._parameters["weight"] = frozen(*state["held"])


# The same on several devices, where scales stay in the order of their rows
SPREAD = {
    "codes": "weight", "scale": "weight_scale", "input_scale": "input_scale", "smooth": "pre_quant_scale",
    "outer": "weight_outer_scale", "codebook": "weight_codebook", "offset": "weight_offset",
    "up": "proj_up", "down": "proj_down",
}  # fmt: skip
# Fields of a QuantizedWeight -> the names that saving gives them
STORED = {"codes": "weight", "scale": "weight_scale", "input_scale": "input_scale", "smooth": "pre_quant_scale"}


def alike(one: Tensor, other: Tensor) -> bool:
    """Same dtype and shape; same bytes too where bytes name the format."""
    named = one.dtype == torch.uint8 and one.ndim == 1
    return one.dtype == other.dtype and one.shape == other.shape and (not named or torch.equal(one, other))


def frozen(weight: QuantizedWeight, dtype: torch.dtype, name: str = "", shard: Shard | None = None) -> nn.Parameter:
    """The weight as a Parameter that reads as dtype; name: of its layer, for messages; shard: what it is a part of."""
    NAMES[weight.codes] = name
    return nn.Parameter(part_of(to_tensor(weight, dtype), shard), requires_grad=False)


TWINS: dict[type, type] = {nn.Linear: ScaledLinear}


def scaled_class(base: type[nn.Linear]) -> type[ScaledLinear]:
    """The scaled twin of a Linear's class; a forward of its own comes first and calls the scaled one as super's."""
    if base not in TWINS:
        TWINS[base] = type(f"Scaled{base.__name__}", (base, ScaledLinear), {"__module__": base.__module__})
    return TWINS[base]


def bare(base: type[nn.Linear]) -> ScaledLinear:
    """An instance for copy and pickle to fill."""
    cls = scaled_class(base)
    return cls.__new__(cls)
