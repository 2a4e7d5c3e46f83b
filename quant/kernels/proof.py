"""Whether a kernel computes correctly on a device: run once there, its numbers checked, the answer kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import torch

from ..errors import Refused, named
from ..weights.packing import up
from .demotion import passing
from .place import on
from .probe import added_error, code_error, probe_error
from .proof_cache import Proof, remembered
from .quantizers import QUANTIZERS, Quantizer
from .registry import KERNELS, Kernel
from .rules import Workload

# more than one tile of any kernel and one block of any weight each way, and no multiple of either
SHAPE = (280, 648)
# by how much more than a kernel's own limit a side is, and no multiple of anything either
RAGGED = 8
DEEPEST = 16384
# The part of codes that may lie one apart, where a quotient is close to a boundary
STRAY = 0.02


def prove(kernel: Kernel, layer: Workload) -> Proof:
    """Whether kernel computes such layers right on their device; measured once, on a shape of its own."""
    if layer.device.type == "meta":
        raise Refused("A layer on the meta device has no weights to compute with; load them first.")
    alike = replace(layer, device=torch.empty(0, device=layer.device).device, has_transform=False)
    found = Proof(0.0, None)
    for shape in probed_shapes(kernel, layer):
        proof = measured(kernel, replace(alike, shape=shape))
        if not proof.works:
            return proof
        found = max(found, proof, key=lambda proof: proof.error)
    return found


def probed_shapes(kernel: Kernel, layer: Workload) -> Iterator[tuple[int, int]]:
    """``(out, in)`` of weights that stand for such a layer: one for each way in which the kernel computes it."""
    outputs, inputs = layer.shape
    rows = max((side + RAGGED for side in kernel.tall if side <= outputs), default=SHAPE[0])
    if kernel.deep:
        yield rows, min(2 ** (inputs - 1).bit_length(), DEEPEST)
        return
    for columns in (SHAPE[1], *(side + RAGGED for side in kernel.wide if side <= inputs)):
        # a rotation takes whole groups
        yield rows, up(columns, layer.rotation or 1)


@torch.compiler.disable
@cache
def measured(kernel: Kernel, layer: Workload) -> Proof:
    """The proof of a kernel on one shape; of one with sums in fewer bits after that of the exact one."""
    place = f"{layer.format.name} {layer.granularity} {layer.shape} {layer.dtype} {layer.activation}"
    quantizer = quantizer_of(kernel, layer)
    exact = next((other for other in KERNELS if other.name == kernel.exact), None)
    if exact and not (proof := measured(exact, layer)).works:
        return proof
    error = partial(added_error, kernel, exact) if exact else partial(probe_error, kernel)
    return remembered(
        f"{kernel.name} [{quantizer}]: {place} {layer.rotation}", layer.device,
        lambda: probed(lambda: error(layer, quantizer), layer.device, kernel.bound),
    )  # fmt: skip


def probed(measure: Callable[[], float], device: torch.device, bound: float) -> tuple[Proof, bool]:
    """The proof that a measurement of an error gives, and whether it will be the same next time."""
    try:
        with on(device), torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            error = measure()
    except Exception as problem:  # whatever a device throws is the answer
        return Proof(None, f"raises on {device.type}: {named(problem)}"), not passing(problem)
    wrong = None if error <= bound else f"is wrong on {device.type}: relative error {error:.3g}, above {bound:g}"
    return Proof(error, wrong), True


def quantizer_of(kernel: Kernel, layer: Workload) -> str:
    """Who quantizes a kernel's activations; "eager" where there is nothing to do."""
    return next((quantizer_for(scheme, layer) for scheme in kernel.schemes(layer.activation)), "eager")


def quantizer_for(scheme: str, layer: Workload) -> str:
    """The first quantizer that has the scheme and is proven on the layer's device for its dtype."""
    place = (scheme, layer.device, layer.dtype)
    able = (quantizer for quantizer in QUANTIZERS if not quantizer.lacks(scheme, layer.device))
    return next(quantizer.name for quantizer in able if prove_quantizer(quantizer, *place).works)


@torch.compiler.disable
@cache
def prove_quantizer(quantizer: Quantizer, scheme: str, device: torch.device, dtype: torch.dtype) -> Proof:
    """Whether it gives the codes that eager arithmetic gives on the CPU."""
    return remembered(
        f"{quantizer.name}: {scheme} {dtype}", device,
        lambda: probed(lambda: code_error(quantizer, scheme, device, dtype), device, STRAY),
    )  # fmt: skip
