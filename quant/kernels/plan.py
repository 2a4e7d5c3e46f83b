"""Which kernel computes a layer: decided once, with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import Refused, one_of
from ..weights.formats import FORMATS, Format, float8_e4m3fn
from ..weights.granularity import Granularity, PerRow
from ..weights.weight import QuantizedWeight
from .activations import implausible
from .demotion import demoted
from .int8 import MOST_LOST, NAME, Judge, encode_int8, is_float8, output_judge
from .proof import prove, quantizer_of
from .proof_cache import Proof
from .registry import KERNELS, Kernel, Workload

# compute -> kernel families in the order in which they are asked
FAMILIES: dict[str, tuple[str, ...]] = {
    "auto": ("scaled_mm", "int8", "block", "upcast"),
    "scaled_mm": ("scaled_mm", "int8", "block", "upcast"),
    "int8": ("int8", "block", "upcast"),
    "upcast": ("upcast",),
}
# dynamic: one scale a token as they come; dynamic-per-tensor: one for all of them; static: the file's input_scale
ACTIVATION_SCALES = ("dynamic", "dynamic-per-tensor", "static")


@dataclass(eq=False)
class Choice:
    """The kernel of one layer, or why not a better one.

    refused: the kernels asked before, each with its reason; activation: how activations are scaled, None where they
    are not; quantizer: who does it; compute: what was asked for; calls: kernel name -> how often it ran, here and
    elsewhere; elsewhere: the choices for other devices and dtypes of activations that the layer has met. Changes where
    a kernel raises: the next one takes its place.
    """

    kernel: Kernel
    reason: str
    refused: dict[str, str]
    layer: Workload
    activation: str | None
    quantizer: str = "eager"
    compute: str = "auto"
    calls: Counter[str] = field(default_factory=Counter)
    elsewhere: dict[tuple[torch.device, torch.dtype], Choice] = field(default_factory=dict, repr=False)

    def __deepcopy__(self, memo: dict[int, object]) -> Choice:
        """Itself: torch.compile guards a weight by comparing its parts with a copy of them."""
        return self

    def next_kernel(self) -> None:
        """Plan again without the kernels that were demoted; Refused where none is left."""
        found = decide(self.layer, self.compute, None)
        raised = demoted(self.kernel, self.layer)
        self.reason = f"{self.kernel.name} {raised}; {found.kernel.name}: {found.reason}"
        self.kernel, self.refused, self.quantizer = found.kernel, found.refused, found.quantizer
        self.activation = found.activation

    def count(self, name: str) -> None:
        """Note that a kernel ran; not inside a compiled graph, which would be compiled anew for each count."""
        if not torch.compiler.is_compiling():
            self.calls[name] += 1

    def on(self, weight: QuantizedWeight, device: torch.device, dtype: torch.dtype) -> Choice:
        """The choice for activations of dtype on device, by the same wish; planned once, counted with this one."""
        if (device, dtype) == (self.layer.device, self.layer.dtype):
            return self
        if (device, dtype) not in self.elsewhere:
            planned = choose_for(weight, device, dtype, self.compute, self.layer.activation)
            self.elsewhere[device, dtype] = replace(planned, calls=self.calls)
        return self.elsewhere[device, dtype]

    @property
    def works_in_fp8(self) -> bool:
        """Whether FP8 codes themselves are multiplied."""
        return self.kernel.family == "scaled_mm"

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
    rotation: int = 0,
) -> Choice:
    """The first kernel that fits the layer ``[out, in]`` and is proven on its device for activations of dtype."""
    check_names(compute, activation_scale)
    doubt = implausible(input_scale) if activation_scale == "static" else None
    activation = "dynamic" if doubt else activation_scale
    layer = Workload(format, granularity, shape, torch.device(device), dtype, has_transform, activation, rotation)
    return decide(layer, compute, doubt)


def choose_for(
    weight: QuantizedWeight,
    device: torch.device,
    dtype: torch.dtype,
    compute: str = "auto",
    activation_scale: str = "dynamic",
) -> Choice:
    """The kernel for a weight as it is."""
    return choose(
        weight.format, weight.granularity, weight.shape, device, dtype, compute, activation_scale,
        weight.input_scale, weight.transformed, 0 if weight.augmented else weight.rotation,
    )  # fmt: skip


def choose_held(
    weight: QuantizedWeight,
    device: torch.device,
    dtype: torch.dtype,
    compute: str = "auto",
    activation_scale: str = "dynamic",
) -> tuple[QuantizedWeight, Choice]:
    """The weight of a file as it will be held, and its kernel: FP8 becomes INT8 where that is asked for.

    auto asks for it where the device has no FP8 GEMM but an INT8 one, and where the output keeps its signal.
    """
    choice = choose_for(weight, device, dtype, compute, activation_scale)
    if not int8_asked(weight, choice, compute):
        return weight, choice
    anew, reason = encode_int8(weight.to(device), judge_of(weight.to(device), choice, compute))
    if anew is None:
        return weight, replace(choice, reason=reason)
    found = choose_for(anew, device, dtype, compute)
    return anew.to(weight.codes.device), replace(found, reason=f"{reason}; {found.reason}")


def choose_foreseen(
    format: Format, granularity: Granularity, shape: tuple[int, int], device: torch.device, dtype: torch.dtype,
    compute: str = "auto", has_transform: bool = False,
) -> Choice:  # fmt: skip
    """The kernel for a file's layer before its weight is read: whether it can be INT8 is seen only then."""
    if compute != "int8" or not is_float8(format):
        return choose(format, granularity, shape, device, dtype, compute, has_transform=has_transform)
    found = choose(FORMATS["int8"], PerRow(), shape, device, dtype, compute)
    return replace(found, reason=f"{NAME} where that loses at most {MOST_LOST} dB of the weight; {found.reason}")


def int8_asked(weight: QuantizedWeight, choice: Choice, compute: str) -> bool:
    """Whether an FP8 weight is to be tried as INT8."""
    if not is_float8(weight.format) or choice.kernel.on_codes:
        return False
    place = (choice.shape, choice.layer.device, choice.layer.dtype)
    return compute == "int8" or (
        compute == "auto" and not choose(float8_e4m3fn, PerRow(), *place, "scaled_mm").works_in_fp8
    )


def judge_of(weight: QuantizedWeight, choice: Choice, compute: str) -> Judge:
    """Refuses what has no INT8 GEMM on the device; for auto also what costs signal of the output."""
    device, dtype = choice.layer.device, choice.layer.dtype

    def unproven(candidate: QuantizedWeight) -> str | None:
        found = choose_for(candidate, device, dtype, "int8")
        return None if found.kernel.family == "int8" else found.reason

    def run(x: Tensor, candidate: QuantizedWeight) -> Tensor:
        found = choose_for(candidate, device, dtype, "int8")
        return found.kernel.run(x, candidate, None, None, found.quantizer)

    measured = output_judge(weight, run, dtype)
    return unproven if compute == "int8" else lambda candidate: unproven(candidate) or measured(candidate)


def decide(layer: Workload, compute: str, doubt: str | None) -> Choice:
    refused: dict[str, str] = {}
    for kernel in (known.scaled_by(layer.activation) for known in KERNELS):
        if kernel.family not in FAMILIES[compute]:
            continue
        proof = asked(kernel, layer, compute)
        if isinstance(proof, Proof) and proof.works:
            lost = joined(refused, layer, kernel.family)
            reason = why(kernel, compute, lost, (proven(proof), *remarks(layer, doubt)))
            return Choice(kernel, reason, refused, layer, scaling(kernel, layer), quantizer_of(kernel, layer), compute)
        refused[kernel.name] = str(proof.reason if isinstance(proof, Proof) else proof)
    raise Refused(f"No kernel computes {layer.format.name} weights on {layer.device}: {joined(refused, layer)}.")


def asked(kernel: Kernel, layer: Workload, compute: str) -> Proof | str:
    """The proof that kernel computes such layers, or why it is not asked for one."""
    reason = kernel.refuses(layer) or demoted(kernel, layer) or (slower(kernel, layer) if compute == "auto" else None)
    return reason or prove(kernel, layer)


def scaling(kernel: Kernel, layer: Workload) -> str | None:
    """How this kernel's activations are scaled, None where they are not."""
    if kernel.scheme is None:
        return None
    return layer.activation if kernel.static else "dynamic"


def why(kernel: Kernel, compute: str, lost: str, remarks: tuple[str, ...]) -> str:
    """The reason as people read it: asked for, or what did not fit, or the proof and what else is to know."""
    if kernel.on_codes:
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


INSISTED = {"scaled_mm": ("scaled_mm", "int8"), "int8": ("int8",)}


def require(choices: Iterable[Choice], compute: str) -> None:
    """Refuse where compute was asked for by name and not one layer can have it."""
    choices = list(choices)
    wanted = INSISTED.get(compute)
    if not wanted or not choices or any(c.kernel.family in wanted for c in choices):
        return
    reasons = "; ".join(dict.fromkeys(c.reason for c in choices))
    raise Refused(f"compute {compute!r} fits none of {len(choices)} layers: {reasons}; choose 'auto' or 'upcast'.")


def check_names(compute: str, activation_scale: str) -> None:
    one_of("compute", compute, FAMILIES)
    one_of("activation_scale", activation_scale, ACTIVATION_SCALES)
