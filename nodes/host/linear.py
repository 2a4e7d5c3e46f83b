"""How a scaled weight lives in one of ComfyUI's Linears."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import comfy.model_management
import comfy.ops
import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor
from torch.nn import Module, Parameter

from ...quant.errors import Refused
from ...quant.kernels.choice import Choice
from ...quant.kernels.forward import apply
from ...quant.kernels.moment import InForward
from ...quant.kernels.plan import choose_for, elsewhere
from ...quant.nn.tensor import alias, as_class, as_computed, choice_of, from_tensor, is_scaled, with_choice
from ...quant.weights.native import NAMES, core_runs, native_tensors

if TYPE_CHECKING:
    Layer = Module  # what these are mixed into

    class CoreLinear(Module):
        """What ComfyUI's mixed-precision Linear keeps of how it was made, before it has a weight."""

        _orig_shape: tuple[int, int]
        factory_kwargs: dict[str, Any]
else:
    Layer = object


# core has them as parameters where a file has them
CORE_KEEPS = ("input_scale", "pre_quant_scale")


class Named(Layer):
    """Mixed in before a layer's class: what a quantized weight is saved as can be asked for by its name.

    ComfyUI asks a layer for all that its state dict names where models are merged, and LoRAs hooked to conditioning.
    """

    def __getattr__(self, name: str) -> Any:
        found = stored(self, name) if name in NAMES else None
        return super().__getattr__(name) if found is None else found


class Scaled(Named):
    """Mixed in before one of ComfyUI's classes: LoRA, saving and moving of a scaled weight."""

    weight: Parameter
    bias: Parameter | None

    def convert_weight(self, weight: Tensor, inplace: bool = False, **kwargs: Any) -> Tensor:
        return weight.dequantize() if isinstance(weight, QuantizedTensor) else weight

    def set_weight(
        self,
        weight: Tensor,
        inplace_update: bool = False,
        seed: int | None = None,
        return_weight: bool = False,
        **kwargs: Any,
    ) -> Tensor | None:
        if isinstance(self.weight, QuantizedTensor):
            weight = self.weight.requantize_from_float(weight, scale="recalculate", stochastic_rounding=seed)
        weight = weight.to(self.weight.dtype)
        if return_weight:
            return weight
        self.weight = Parameter(restorable(weight) if inplace_update else weight, requires_grad=False)
        return None

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", **kwargs: Any) -> Any:
        if not is_scaled(self.weight):
            return super().state_dict(*args, destination=destination, prefix=prefix, **kwargs)
        destination = {} if destination is None else destination
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias
        destination.update(native_tensors(from_tensor(self.weight), prefix))
        return destination

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Scaled:
        return comfy.ops._quantized_apply(self, fn, recurse)


def restorable(weight: Tensor) -> Tensor:
    """The same weight, such that what is copied over its .data, as ComfyUI takes a hooked LoRA off, reaches its scales.

    comfy-kitchen's own tensors would take the codes alone.
    """
    return alias(weight) if isinstance(weight, QuantizedTensor) else weight


class SetInPlace(Layer):
    """Mixed in before core's quantized Linear, which refuses what a LoRA hooked to conditioning asks for."""

    weight: Parameter

    def set_weight(self, weight: Tensor, inplace_update: bool = False, **kwargs: Any) -> Tensor | None:
        core: Any = super()
        found: Tensor | None = core.set_weight(weight, inplace_update=False, **kwargs)
        if inplace_update:
            self.weight = Parameter(restorable(self.weight), requires_grad=False)
        return found


class ScaledLinear(Scaled):
    """A Linear that runs scaled weights by their kernel and leaves every other to the class behind it."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not is_scaled(self.weight):
            return super().forward(x, *args, **kwargs)
        if not isinstance(x, Tensor):
            # Trellis2's Linears take sparse tensors, of which the features are multiplied
            return x.replace(self.forward(x.feats, *args, **kwargs))
        comfy.ops.run_every_op()
        with comfy.ops.CastBiasWeightContext(
            self,
            dtype=self.weight.dtype,
            device=x.device,
            bias_dtype=x.dtype,
            offloadable=True,
            compute_dtype=x.dtype,
            want_requant=True,
        ) as (weight, bias):
            return scaled_linear(x, weight, bias, self.choice(x))

    def choice(self, x: Tensor) -> Choice:
        """The kernel planned for the weight, by what was asked for wherever ComfyUI runs it."""
        planned = choice_of(self.weight)
        if planned is None:
            with InForward():
                planned = choose_for(from_tensor(self.weight), x.device, x.dtype)
            self.weight = Parameter(with_choice(self.weight, planned), requires_grad=False)
        here = (x.device, x.dtype) == (planned.layer.device, planned.layer.dtype)
        return planned if here else elsewhere(planned, from_tensor(self.weight), x.device, x.dtype)


def stored(layer: Module, name: str) -> Tensor | None:
    """One of the tensors that a layer with a quantized weight is saved as; None where there is none of that name."""
    weight = layer.weight
    if is_scaled(weight):
        return native_tensors(from_tensor(weight), "").get(name)
    if name in CORE_KEEPS or not isinstance(weight, QuantizedTensor):
        return None
    return layer.state_dict().get(name)


class ScaledConvolution(Scaled):
    """A convolution with a scaled weight, which comfy-kitchen dequantizes as it is used."""


def scaled_linear(x: Tensor, weight: Tensor, bias: Tensor | None, choice: Choice) -> Tensor:
    """x ``[..., in]`` through the chosen kernel; in full precision where a LoRA was added on the fly."""
    if not is_scaled(weight):
        choice.count("full precision with LoRA")
        return torch.nn.functional.linear(x, weight.to(x.dtype), bias)
    return apply(x, as_computed(weight), bias, choice)


class Operations(Protocol):
    """Classes of layers, as ComfyUI's custom_operations have them."""

    Linear: type[Module]


def scaled_ops(dtype: torch.dtype, device: torch.device, full_precision: bool = False) -> type[Operations]:
    """ComfyUI's mixed-precision operations with Linears that also take scaled weights from a state dict."""
    base: Any = comfy.ops.mixed_precision_ops({}, dtype, full_precision, disabled=emulated_formats(device))
    core_linear: Any = base.Linear
    core_embedding: Any = base.Embedding

    class ScaledOps(base):
        class Linear(ScaledLinear, core_linear):
            def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
                weight = state_dict.get(f"{prefix}weight")
                if is_scaled(weight) and not core_runs(from_tensor(weight)):
                    take_weight(self, state_dict, prefix, *args)
                    return
                if is_scaled(weight):
                    check_shape(self, prefix, weight)
                    state_dict.update(native_tensors(from_tensor(weight), prefix))
                super()._load_from_state_dict(state_dict, prefix, *args)
                if self.weight is None and prefix.endswith("text_projection."):
                    self.weight = unused_weight(self)

        class Embedding(core_embedding):
            def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
                weight = state_dict.get(f"{prefix}weight")
                if isinstance(weight, QuantizedTensor):
                    state_dict[f"{prefix}weight"] = weight.dequantize()
                super()._load_from_state_dict(state_dict, prefix, *args)

    return ScaledOps


def emulated_formats(device: torch.device) -> set[str]:
    """Core's formats that device has no matrix units for, as core's pick_operations finds them."""
    management = comfy.model_management
    missing = set() if management.supports_nvfp4_compute(device) else {"nvfp4"}
    return missing if management.supports_mxfp8_compute(device) else missing | {"mxfp8"}


def unused_weight(layer: CoreLinear) -> Parameter:
    """Zeros for CLIP's projection, which many files lack: ComfyUI computes it even where no model uses it."""
    return Parameter(torch.zeros(layer._orig_shape, **layer.factory_kwargs), requires_grad=False)


@cache
def core_ops(dtype: torch.dtype, device: torch.device) -> type[Operations]:
    """Core's own mixed-precision operations as they run on device."""
    return comfy.ops.mixed_precision_ops({}, dtype, disabled=emulated_formats(device))


def check_shape(layer: CoreLinear, prefix: str, weight: Tensor) -> None:
    if tuple(weight.shape) != tuple(layer._orig_shape):
        raise Refused(
            f"{prefix}weight is {list(weight.shape)} in the file and {list(layer._orig_shape)} in the model that "
            "ComfyUI takes it for: the file is of another model, or its weights lie the other way around."
        )


def take_weight(layer: CoreLinear, state_dict: dict[str, Tensor], prefix: str, *loading: Any) -> None:
    """Give a layer the scaled weight of a state dict as it is, and the rest by torch's own loading."""
    weight = state_dict.pop(f"{prefix}weight")
    check_shape(layer, prefix, weight)
    weight = as_class(weight, QuantizedTensor).to(dtype=layer.factory_kwargs["dtype"])
    if layer.factory_kwargs["device"] is not None:
        weight = weight.to(device=layer.factory_kwargs["device"])
    layer.weight = Parameter(weight, requires_grad=False)
    Module._load_from_state_dict(layer, state_dict, prefix, *loading)
    # metadata, strict, the missing keys, the unexpected ones, errors
    missing = loading[2]
    if f"{prefix}weight" in missing:
        missing.remove(f"{prefix}weight")
