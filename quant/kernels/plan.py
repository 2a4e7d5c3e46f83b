"""Which kernel computes a layer: decided once, with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import Refused, one_of
from ..weights.formats import Format
from ..weights.granularity import Granularity
from ..weights.weight import QuantizedWeight
from .activations import implausible
from .proof import prove, quantizer_of
from .proof_cache import Proof
from .registry import KERNELS, Kernel, Workload

# compute -> kernel families in the order in which they are asked
FAMILIES: dict[str, tuple[str, ...]] = {
    "auto": ("scaled_mm", "block", "upcast"),
    "scaled_mm": ("scaled_mm", "block", "upcast"),
    "upcast": ("upcast",),
}
ACTIVATION_SCALES = ("dynamic", "static")


@dataclass(frozen=True, eq=False)
class Choice:
    """The kernel of one layer, or why not a better one.

    refused: the kernels asked before, each with its reason; activation: how activations are scaled, None where they
    are not; quantizer: who does it; calls: kernel name -> how often it ran, the one thing here that changes.
    """

    kernel: Kernel
    reason: str
    refused: dict[str, str]
    layer: Workload
    activation: str | None
    quantizer: str = "eager"
    calls: Counter[str] = field(default_factory=Counter)

    def __deepcopy__(self, memo: dict[int, object]) -> Choice:
        """Itself: torch.compile guards a weight by comparing its parts with a copy of them."""
        return self

    def count(self, name: str) -> None:
        """Note that a kernel ran; not inside a compiled graph, which would be compiled anew for each count."""
        if not torch.compiler.is_compiling():
            self.calls[name] += 1

    @property
    def format(self) -> Format:
        return self.layer.format

    @property
    def granularity(self) -> Granularity:
        return self.layer.granularity

    @property
    def shape(self) -> tuple[int, int]:
        return self.layer.shape


def choose(
    format: Format,
    granularity: Granularity,
    shape: tuple[int, int],
    device: torch.device | str,
    dtype: torch.dtype,
    compute: str = "auto",
    activation_scale: str = "dynamic",
    input_scale: Tensor | None = None,
    has_transform: bool = False,
) -> Choice:
    """The first kernel that fits the layer ``[out, in]`` and is proven on its device for activations of dtype."""
    check_names(compute, activation_scale)
    doubt = implausible(input_scale) if activation_scale == "static" else None
    activation = "static" if activation_scale == "static" and not doubt else "dynamic"
    layer = Workload(format, granularity, shape, torch.device(device), dtype, has_transform, activation)
    return decide(layer, compute, doubt)


def choose_for(
    weight: QuantizedWeight,
    device: torch.device,
    dtype: torch.dtype,
    compute: str = "auto",
    activation_scale: str = "dynamic",
) -> Choice:
    """The kernel for a weight as it is."""
    transformed = weight.smooth is not None or weight.rotation > 0
    return choose(
        weight.format, weight.granularity, weight.shape, device, dtype, compute, activation_scale,
        weight.input_scale, transformed,
    )  # fmt: skip


def decide(layer: Workload, compute: str, doubt: str | None) -> Choice:
    refused: dict[str, str] = {}
    for kernel in KERNELS:
        if kernel.family not in FAMILIES[compute]:
            continue
        proof = kernel.refuses(layer) or (compute == "auto" and slower(kernel, layer)) or prove(kernel, layer)
        if isinstance(proof, Proof) and proof.works:
            lost = joined(refused, layer, kernel.family)
            reason = why(kernel, compute, lost, (proven(proof), *remarks(layer, doubt)))
            return Choice(kernel, reason, refused, layer, scaling(kernel, layer), quantizer_of(kernel, layer))
        refused[kernel.name] = str(proof.reason if isinstance(proof, Proof) else proof)
    raise Refused(f"No kernel computes {layer.format.name} weights on {layer.device}: {joined(refused, layer)}.")


def scaling(kernel: Kernel, layer: Workload) -> str | None:
    """How this kernel's activations are scaled, None where they are not."""
    if kernel.scheme is None:
        return None
    return layer.activation if kernel.static else "dynamic"


def why(kernel: Kernel, compute: str, lost: str, remarks: tuple[str, ...]) -> str:
    """The reason as people read it: asked for, or what did not fit, or the proof and what else is to know."""
    if kernel.family == "scaled_mm":
        return "; ".join(remarks)
    return "as asked" if compute == "upcast" else lost


def proven(proof: Proof) -> str:
    return f"proven here, error {proof.error:.1g}"


def slower(kernel: Kernel, layer: Workload) -> str | None:
    """Why a kernel that may be right is not what auto takes."""
    if layer.device.type != "cpu" or kernel.family != "scaled_mm" or not layer.format.dtype.is_floating_point:
        return None
    # one thread, 1 to 256 tokens, 64^2 to 3072^2: 1.6 to 9 times with FP8 units, 50 to 900 times without
    return "takes longer than upcast on a CPU, and rounds the activations"


def remarks(layer: Workload, doubt: str | None) -> list[str]:
    return [f"dynamic because {doubt}"] if doubt else []


def joined(refused: dict[str, str], layer: Workload, chosen: str = "") -> str:
    """One clause a family other than the chosen kernel's: of the kernel that came closest, the last of several."""
    closest: dict[str, Kernel] = {}
    for kernel in KERNELS:
        if kernel.name in refused and kernel.family != chosen:
            best = closest.get(kernel.family, kernel)
            closest[kernel.family] = kernel if kernel.passed(layer) >= best.passed(layer) else best
    # what a kernel is not made for says nothing where another one was measured or asked
    telling = [kernel for kernel in closest.values() if not refused[kernel.name].startswith("needs ")]
    return "; ".join(f"{kernel.name} {refused[kernel.name]}" for kernel in telling or closest.values())


def require(choices: Iterable[Choice], compute: str) -> None:
    """Refuse where compute was asked for by name and not one layer can have it."""
    choices = list(choices)
    if compute != "scaled_mm" or not choices or any(c.kernel.family == "scaled_mm" for c in choices):
        return
    reasons = "; ".join(dict.fromkeys(c.reason for c in choices))
    raise Refused(f"compute 'scaled_mm' fits none of {len(choices)} layers: {reasons}; choose 'auto' or 'upcast'.")


def check_names(compute: str, activation_scale: str) -> None:
    one_of("compute", compute, FAMILIES)
    one_of("activation_scale", activation_scale, ACTIVATION_SCALES)
