"""The forward of a Linear with a scaled weight, for inputs of any shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import Refused
from ..weights.weight import QuantizedWeight
from .activations import same_device
from .choice import Choice, Way
from .demotion import demote, demoted, passing, rehabilitate
from .plan import next_kernel
from .registry import KERNELS, Kernel

UPCAST = Way(next(k for k in KERNELS if k.family == "upcast" and not k.rules), "a step in high precision", None)


def apply(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, choice: Choice) -> Tensor:
    """``[..., in] -> [..., out]`` in x's dtype, autocast's where that is on; x is only read; weight: as it is held.

    Gradients reach x and bias, through the dequantized weight; the weight itself is frozen.
    """
    outputs, inputs = choice.shape
    if x.ndim == 0 or x.shape[-1] != inputs:
        raise Refused(f"A Linear of {inputs} inputs got activations {list(x.shape)}; give [..., {inputs}].")
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(computed_dtype(x))
        with torch.autocast(x.device.type, enabled=False):
            return flat(x, weight, bias, choice).view(*x.shape[:-1], outputs)
    return flat(x, weight, bias, choice).view(*x.shape[:-1], outputs)


def computed_dtype(x: Tensor) -> torch.dtype:
    """In which dtype F.linear would compute: x's own, or autocast's, which leaves float64 alone."""
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if autocast else x.dtype


class Precision:
    """high: whether activations are left as they are now, whatever kernel a layer was planned on."""

    high = False


@contextmanager
def high_precision(high: bool = True) -> Iterator[None]:
    """Until the block ends scaled Linears, on every thread, dequantize their weights and do not round activations."""
    before, Precision.high = Precision.high, high
    try:
        yield
    finally:
        Precision.high = before


def way_of(choice: Choice, tokens: int) -> Way:
    """How so many tokens are computed now: as planned; in high precision by what takes activations as they are."""
    way = choice.way(tokens)
    return UPCAST if Precision.high and way.kernel.rounds else way


def flat(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, choice: Choice) -> Tensor:
    """The product for inputs of any shape, with gradients where they are asked for; counted."""
    x = x.reshape(-1, choice.shape[1]) if choice.shape[1] else x.reshape(x.shape[:-1].numel(), 0)
    bias = None if bias is None else bias.to(x.dtype)
    if weight.scale.device != x.device:
        weight = replace(weight.to(x.device), codes=weight.codes)
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        y = Frozen.apply(x, bias, weight, choice)
    else:
        y = forward(x, weight, bias, choice)
    choice.count(way_of(choice, len(x)).kernel.name)
    return y


def forward(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, choice: Choice) -> Tensor:
    """The product by the kernel for so many tokens, ``[tokens, in] -> [tokens, out]``."""
    if not x.numel() or not choice.shape[0]:
        empty = x.new_zeros(x.shape[0], choice.shape[0])
        return empty if bias is None else empty + bias
    if (way := way_of(choice, len(x))) is UPCAST:
        return run_way(x, weight, bias, way)
    # a graph keeps what was traced, for any number of tokens
    if torch.compiler.is_compiling():
        return run_way(x, weight, bias, choice.main)
    return run_any(x, weight, bias, choice)


def run_way(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, way: Way) -> Tensor:
    input_scale = same_device(weight.input_scale, x) if way.activation == "static" else None
    weight = weight if way.kernel.arrange else weight.expanded()
    return way.kernel.run(x, weight, bias, input_scale, way.quantizer)


def run_any(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, choice: Choice) -> Tensor:
    """The product by the planned kernel; where one raises, by the next, from then on and with the reason."""
    planned, raised = dict(vars(choice)), list[tuple[Kernel, Exception]]()
    while True:
        way = choice.way(len(x))
        try:
            if demoted(way.kernel, choice.layer):
                next_kernel(choice, way.kernel)
                way = choice.way(len(x))
            return run_way(x, weight, bias, way)
        except Refused:
            # none is left, so that it was not the kernels' fault
            for kernel, _ in raised:
                rehabilitate(kernel, choice.layer)
            if raised:
                vars(choice).update(planned)
                raise raised[0][1] from None
            raise
        except Exception as problem:
            if passing(problem):
                raise
            raised.append((way.kernel, problem))
            demote(way.kernel, choice.layer, problem)


class Frozen(torch.autograd.Function):
    """Gradients of x and bias through a weight that has none; saves the codes, not a dequantized copy a layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, weight: QuantizedWeight, choice: Choice) -> Tensor:
        ctx.weight = weight
        return forward(x, weight, bias, choice)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x = gradient @ ctx.weight.expanded().dequantize(gradient.dtype) if ctx.needs_input_grad[0] else None
        bias = gradient.sum(0) if ctx.needs_input_grad[1] else None
        return x, bias, None, None
