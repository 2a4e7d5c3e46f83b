"""Which kernel computes a layer: decided once, with a reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from ..errors import Refused
from ..weights.formats import FORMATS, Format, float8_e4m3fn
from ..weights.granularity import Granularity, PerRow
from ..weights.weight import QuantizedWeight
from .activations import not_static
from .choice import Choice, Way
from .demotion import demoted
from .int8 import MOST_LOST, NAME, Judge, encode_int8, is_float8, output_judge
from .mode import AUTO, FAMILIES, INT8, Mode
from .moment import InForward
from .proof import prove, quantizer_of
from .proof_cache import Proof
from .registry import KERNELS, Kernel
from .rules import Workload
from .speed import TOKENS, measuring, order, ratios, release


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
    mode = Mode(compute, activation_scale)
    doubt = not_static(input_scale) if mode.activation_scale == "static" else None
    activation = "dynamic" if doubt else mode.activation_scale
    layer = Workload(
        format,
        granularity,
        shape,
        torch.device(device),
        dtype,
        has_transform=has_transform,
        activation=activation,
        rotation=rotation,
    )
    try:
        return decide(layer, mode.compute, doubt)
    finally:
        release()


def choose_for(weight: QuantizedWeight, device: torch.device, dtype: torch.dtype, mode: Mode = AUTO) -> Choice:
    """The kernel for a weight as it is."""
    return choose(
        weight.format, weight.granularity, weight.shape, device, dtype, mode.compute, mode.activation_scale,
        input_scale=weight.input_scale, has_transform=weight.transformed,
        rotation=0 if weight.augmented else weight.rotation,
    )  # fmt: skip


def choose_held(
    weight: QuantizedWeight, device: torch.device, dtype: torch.dtype, mode: Mode = AUTO
) -> tuple[QuantizedWeight, Choice]:
    """The weight of a file as it will be held, and its kernel: FP8 becomes INT8 where that is asked for.

    auto asks for it where the device has no FP8 GEMM but an INT8 one, and where the output keeps its signal.
    """
    choice = choose_for(weight, device, dtype, mode)
    if not int8_asked(weight, choice, mode.compute):
        return weight, choice
    anew, reason = encode_int8(weight.to(device), judge_of(weight.to(device), choice, mode.compute))
    if anew is None:
        return weight, because(choice, reason)
    found = choose_for(anew, device, dtype, Mode(mode.compute))
    return anew.to(weight.codes.device), because(found, f"{reason}; {found.reason}")


def choose_foreseen(
    format: Format, granularity: Granularity, shape: tuple[int, int], device: torch.device, dtype: torch.dtype,
    compute: str = "auto", has_transform: bool = False,
) -> Choice:  # fmt: skip
    """The kernel for a file's layer before its weight is read: whether it can be INT8 is seen only then."""
    if compute != "int8" or not is_float8(format):
        return choose(format, granularity, shape, device, dtype, compute, has_transform=has_transform)
    found = choose(FORMATS["int8"], PerRow(), shape, device, dtype, compute)
    return because(found, f"{NAME} where that loses at most {MOST_LOST} dB of the weight; {found.reason}")


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
        found = choose_for(candidate, device, dtype, INT8)
        return None if found.kernel.family == "int8" else found.reason

    def run(x: Tensor, candidate: QuantizedWeight) -> Tensor:
        found = choose_for(candidate, device, dtype, INT8)
        return found.kernel.run(x, candidate, None, None, found.quantizer)

    measured = output_judge(weight, run, dtype)
    return unproven if compute == "int8" else lambda candidate: unproven(candidate) or measured(candidate)


def decide(layer: Workload, compute: str, doubt: str | None) -> Choice:
    """The fastest of the proven kernels for each number of tokens."""
    refused: dict[str, str] = {}
    for families in FAMILIES[compute]:
        fitting = able(families, layer, refused)
        fastest = {tokens: first_proven(fitting, layer, tokens, refused) for tokens in TOKENS}
        main = fastest[TOKENS[-1]]
        if main is not None:
            refused = outrun(main, fitting, layer) | refused
            others = {
                tokens: way_of(kernel, layer, f"the fastest for about {tokens} tokens")
                for tokens, kernel in fastest.items()
                if kernel is not None and kernel != main
            }
            way = way_of(main, layer, why(main, layer, compute, refused, doubt))
            return Choice(way, refused, layer, compute, others)
    raise Refused(f"No kernel computes {layer.format.name} weights on {layer.device}: {joined(refused, layer)}.")


def able(families: tuple[str, ...], layer: Workload, refused: dict[str, str]) -> list[Kernel]:
    """The kernels of these families that fit a layer; why the others do not goes into refused."""
    asked = [kernel.scaled_by(layer.activation) for kernel in KERNELS if kernel.family in families]
    reasons = {kernel: kernel.refuses(layer) or demoted(kernel, layer) for kernel in asked}
    refused |= {kernel.name: reason for kernel, reason in reasons.items() if reason}
    return [kernel for kernel, reason in reasons.items() if not reason]


def first_proven(kernels: list[Kernel], layer: Workload, tokens: int, refused: dict[str, str]) -> Kernel | None:
    """The fastest that computes such layers right; why faster ones do not goes into refused."""
    for kernel in order(ratios(kernels, layer, tokens), layer.device):
        proof = prove(kernel, layer)
        if proof.works:
            return kernel
        refused[kernel.name] = str(proof.reason)
    return None


def outrun(main: Kernel, kernels: list[Kernel], layer: Workload) -> dict[str, str]:
    """Why those that stand before the chosen kernel are not taken."""
    times = ratios(kernels, layer, TOKENS[-1])
    before = kernels[: kernels.index(main)]
    return {kernel.name: behind(kernel, main, times[kernel] / times[main], layer) for kernel in before}


def behind(kernel: Kernel, main: Kernel, times: float, layer: Workload) -> str:
    if times == inf:
        return str(prove(kernel, layer).reason)
    return (
        f"takes {times:.1f} times as long as {main.name}" if measuring() else f"usually takes longer than {main.name}"
    )


def way_of(kernel: Kernel, layer: Workload, reason: str) -> Way:
    return Way(kernel, reason, scaling(kernel, layer), quantizer_of(kernel, layer))


def elsewhere(choice: Choice, weight: QuantizedWeight, device: torch.device, dtype: torch.dtype) -> Choice:
    """The choice for activations of dtype on device, by what was asked for; planned once, counted with this one."""
    if (device, dtype) == (choice.layer.device, choice.layer.dtype):
        return choice
    if (device, dtype) not in choice.elsewhere:
        # this may be the middle of a forward
        with InForward():
            planned = choose_for(weight, device, dtype, Mode(choice.compute, choice.layer.activation))
        choice.elsewhere[device, dtype] = replace(planned, calls=choice.calls)
    return choice.elsewhere[device, dtype]


def next_kernel(choice: Choice, kernel: Kernel) -> None:
    """Plan again without the kernels that were demoted, kernel among them; Refused where none is left."""
    with InForward():
        found = decide(choice.layer, choice.compute, None)
    if choice.kernel.name == kernel.name:
        reason = f"{kernel.name} {demoted(kernel, choice.layer)}; {found.kernel.name}: {found.reason}"
        found = because(found, reason)
    choice.main, choice.others, choice.refused = found.main, found.others, found.refused


def because(choice: Choice, reason: str) -> Choice:
    """The same with another reason."""
    return replace(choice, main=replace(choice.main, reason=reason))


def scaling(kernel: Kernel, layer: Workload) -> str | None:
    """How this kernel's activations are scaled, None where they are not."""
    if not kernel.rounds:
        return None
    return layer.activation if kernel.static else "dynamic"


def why(kernel: Kernel, layer: Workload, compute: str, refused: dict[str, str], doubt: str | None) -> str:
    """The reason as people read it: asked for, or what did not fit, or the proof and what else is to know."""
    if kernel.on_codes:
        return "; ".join((proven(prove(kernel, layer)), *([f"dynamic because {doubt}"] if doubt else [])))
    return "as asked" if compute == "upcast" else joined(refused, layer, kernel.family)


def proven(proof: Proof) -> str:
    return f"proven here, error {proof.error:.1g}"


def joined(refused: dict[str, str], layer: Workload, chosen: str = "") -> str:
    """Why other kernels were not chosen: one clause a family, of the kernel that came closest, the last of several."""
    closest: dict[str, Kernel] = {}
    for kernel in KERNELS:
        if kernel.name in refused and kernel.family != chosen:
            best = closest.get(kernel.family, kernel)
            closest[kernel.family] = kernel if kernel.passed(layer) >= best.passed(layer) else best
    # what a kernel is not made for says nothing where another one was measured or asked
    telling = [kernel for kernel in closest.values() if not kernel.refuses(layer)]
    return "; ".join(f"{kernel.name} {refused[kernel.name]}" for kernel in telling or closest.values())


def require(choices: Iterable[Choice], compute: str) -> None:
    """Refuse where compute was asked for by name and not one layer can have it."""
    choices = list(choices)
    wanted, *instead = FAMILIES[compute]
    if not instead or not choices or any(c.kernel.family in wanted for c in choices):
        return
    reasons = "; ".join(dict.fromkeys(c.reason for c in choices))
    raise Refused(f"compute {compute!r} fits none of {len(choices)} layers: {reasons}; choose 'auto' or 'upcast'.")
