"""What a device can do: each kernel is run once on a small GEMM there, and its numbers checked against float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version

import torch

from .activation import QUANTIZERS, Quantizer
from .formats import FORMATS, float8_e4m3fn
from .granularity import PerBlock, PerRow, PerTensor
from .kernels import KERNELS, Kernel, Layer
from .probe import code_error, probe_error, sample
from .proofs import Proof, remembered
from .refusal import Refused
from .table import text_table
from .timing import beside

SHAPE = (48, 80)
DEEPEST = 16384
# The part of codes that may lie one apart, where a quotient is close to a boundary
STRAY = 0.02


def prove(kernel: Kernel, layer: Layer) -> Proof:
    """Whether kernel computes such layers right on their device; measured once, on a shape of its own."""
    if layer.device.type == "meta":
        raise Refused("A layer on the meta device has no weights to compute with; load them first.")
    device = torch.empty(0, device=layer.device).device
    inputs = min(2 ** (layer.shape[1] - 1).bit_length(), DEEPEST) if kernel.deep else SHAPE[1]
    return measured(kernel, replace(layer, shape=(SHAPE[0], inputs), device=device, has_transform=False))


@torch.compiler.disable
@cache
def measured(kernel: Kernel, layer: Layer) -> Proof:
    place = f"{layer.format.name} {layer.granularity} {layer.shape} {layer.dtype} {layer.activation}"
    quantizer = quantizer_of(kernel, layer)
    return remembered(
        f"{kernel.name} [{quantizer}]: {place}", layer.device,
        lambda: probed(lambda: probe_error(kernel, layer, quantizer), layer.device, kernel.bound),
    )  # fmt: skip


def probed(measure: Callable[[], float], device: torch.device, bound: float) -> tuple[Proof, bool]:
    """The proof that a measurement of an error gives, and whether it will be the same next time."""
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            error = measure()
    except Exception as problem:  # whatever a device throws is the answer
        passing = isinstance(problem, (MemoryError, torch.OutOfMemoryError))
        return Proof(None, f"raises on {device.type}: {first_line(problem)}"), not passing
    wrong = None if error <= bound else f"is wrong on {device.type}: relative error {error:.3g}, above {bound:g}"
    return Proof(error, wrong), True


def first_line(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0][:120]}" if lines else type(problem).__name__


def quantizer_of(kernel: Kernel, layer: Layer) -> str:
    """Who quantizes a kernel's activations; "eager" where there is nothing to do."""
    return next((quantizer_for(scheme, layer) for scheme in kernel.schemes(layer.activation)), "eager")


def quantizer_for(scheme: str, layer: Layer) -> str:
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


##### This machine, for people


@dataclass(frozen=True)
class Finding:
    """One kernel, or one way to quantize activations, on one device for activations of dtype.

    time: beside a bfloat16 Linear of the same shape on the same device, in the same run; None where it does not run.
    """

    device: str
    dtype: str
    kernel: str
    works: bool
    error: float | None
    time: float | None
    reason: str | None


@dataclass(frozen=True)
class Diagnosis:
    """What this machine can do."""

    versions: dict[str, str]
    devices: dict[str, str]
    findings: tuple[Finding, ...]

    def table(self) -> str:
        """Versions, devices, and a line a kernel."""
        versions = "  ".join(f"{name} {number}" for name, number in self.versions.items())
        devices = (f"{device}: {name}" for device, name in self.devices.items())
        columns = ("device", "activations", "kernel", "works", "error", "time / bf16", "reason")
        return "\n".join((versions, *devices, "", text_table(columns, [cells(f) for f in self.findings])))

    def to_json(self) -> dict[str, object]:
        kernels = [asdict(finding) for finding in self.findings]
        return {"versions": self.versions, "devices": self.devices, "kernels": kernels}


def cells(finding: Finding) -> list[str]:
    error = "" if finding.error is None else f"{finding.error:.2g}"
    time = "" if finding.time is None else f"{finding.time:.2f}"
    works = "yes" if finding.works else "no"
    return [finding.device, finding.dtype, finding.kernel, works, error, time, finding.reason or ""]


def doctor() -> Diagnosis:
    """Every kernel tried and timed on every device of this machine, on weights of the first format that it takes."""
    versions = {"torch": torch.__version__, "comfy-kitchen": version("comfy-kitchen")}
    found = devices()
    findings = (
        finding for device in found for dtype in (torch.bfloat16, torch.float32) for finding in probe(device, dtype)
    )
    return Diagnosis(versions, found, tuple(findings))


def probe(device: torch.device | str, dtype: torch.dtype) -> Iterator[Finding]:
    """What each kernel, and each way to quantize activations, does on device."""
    device = torch.device(device)
    place = (str(device), str(dtype).removeprefix("torch."))
    for kernel in KERNELS:
        layer = typical(kernel, device, dtype)
        reason = kernel.refuses(layer)
        proof = Proof(None, reason) if reason else prove(kernel, layer)
        time = kernel_time(kernel, layer) if proof.works else None
        yield Finding(*place, kernel.name, proof.works, proof.error, time, proof.reason)
    for quantizer in QUANTIZERS:
        scheme = "float8 static" if quantizer.name == "comfy-kitchen" else "float8 per-token"
        reason = quantizer.lacks(scheme, device)
        proof = Proof(None, reason) if reason else prove_quantizer(quantizer, scheme, device, dtype)
        time = quantizer_time(quantizer, scheme, device, dtype) if proof.works else None
        yield Finding(*place, f"{scheme} by {quantizer.name}", proof.works, proof.error, time, proof.reason)


def typical(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> Layer:
    """The first layer that kernel does not refuse; one of its own format where device does not suit it."""
    layers = [
        Layer(format, granularity, SHAPE, device, dtype, activation=activation)
        for format in (float8_e4m3fn, *FORMATS.values())
        for granularity in (PerRow(), PerTensor(), PerBlock(128, 128), *format.granularities)
        for activation in ("dynamic", "static")
    ]
    # what a kernel says last is asked of the device, after what is asked of the layer
    return max(layers, key=kernel.passed)


def devices() -> dict[str, str]:
    """Devices of this machine -> their names."""
    found = {"cpu": torch.backends.cpu.get_cpu_capability()}
    for kind in (torch.cuda, torch.xpu):
        short = kind.__name__.removeprefix("torch.")
        found |= {f"{short}:{i}": kind.get_device_name(i) for i in range(kind.device_count())}
    return found | ({"mps:0": "Apple GPU"} if torch.backends.mps.is_available() else {})


##### Times


def timed_shape(device: torch.device) -> tuple[int, tuple[int, int]]:
    """Tokens, and ``(out, in)``: enough to keep the device busy, little enough to wait for."""
    return (256, (512, 512)) if device.type == "cpu" else (4096, (3072, 3072))


def beside_bfloat16(run: Callable[[], object], device: torch.device) -> float:
    """Time of run over that of F.linear in bfloat16, both of timed_shape."""
    tokens, (outputs, inputs) = timed_shape(device)
    x, weight = (torch.randn(rows, inputs, device=device).bfloat16() for rows in (tokens, outputs))
    with torch.inference_mode():
        return beside(run, lambda: torch.nn.functional.linear(x, weight), device)


def kernel_time(kernel: Kernel, layer: Layer) -> float:
    tokens, shape = timed_shape(layer.device)
    weight, _, _ = sample(replace(layer, shape=shape))
    weight, quantizer = weight.to(layer.device), quantizer_of(kernel, layer)
    x = torch.randn(tokens, shape[1], device=layer.device).to(layer.dtype)
    scale = torch.full((), 0.01, device=layer.device) if layer.activation == "static" else None
    return beside_bfloat16(lambda: kernel.run(x, weight, None, scale, quantizer), layer.device)


def quantizer_time(quantizer: Quantizer, scheme: str, device: torch.device, dtype: torch.dtype) -> float:
    tokens, (_, inputs) = timed_shape(device)
    x, scale = torch.randn(tokens, inputs, device=device).to(dtype), torch.full((1, 1), 0.01, device=device)
    return beside_bfloat16(lambda: quantizer.schemes()[scheme](x, scale), device)
