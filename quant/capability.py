"""What a device can do: each kernel is run once on a small GEMM there, and its numbers checked against float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version

import torch
from torch import Tensor

from .activation import quantize_activation
from .formats import Format, float8_e4m3fn, scale_from_amax
from .granularity import Granularity, PerBlock, PerRow, PerTensor
from .kernels import KERNELS, Kernel, Layer
from .refusal import Refused
from .table import text_table
from .weight import QuantizedWeight

SHAPE = (48, 80)
TOKENS = 32
# Roundings to bfloat16 are 0.003 to 0.006, those to float8 0.026; a scale on the wrong axis is above 0.5.
BOUND = 0.015


@dataclass(frozen=True)
class Proof:
    """One kernel on one device. error: relative, of the worst token, None if it raised; reason: None if it works."""

    error: float | None
    reason: str | None

    @property
    def works(self) -> bool:
        return self.reason is None


def prove(kernel: Kernel, layer: Layer) -> Proof:
    """Whether kernel computes such layers right on their device; measured once, on a shape of its own."""
    if layer.device.type == "meta":
        raise Refused("A layer on the meta device has no weights to compute with; load them first.")
    device = torch.empty(0, device=layer.device).device
    return measured(kernel, replace(layer, shape=SHAPE, device=device, has_transform=False))


@torch.compiler.disable
@cache
def measured(kernel: Kernel, layer: Layer) -> Proof:
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(layer.device.type, enabled=False):
            error = probe_error(kernel, layer)
    except Exception as problem:  # whatever a device throws is the answer
        return Proof(None, f"raises on {layer.device}: {first_line(problem)}")
    wrong = None if error <= BOUND else f"is wrong on {layer.device}: relative error {error:.3g}, above {BOUND:g}"
    return Proof(error, wrong)


def probe_error(kernel: Kernel, layer: Layer) -> float:
    """Relative error of the worst token against float32 arithmetic on the CPU."""
    weight, x, bias = sample(layer)
    scale = (x.abs().amax() / layer.format.maximum).float() if layer.activation == "static" else None
    there = [None if t is None else t.to(layer.device) for t in (x, bias, scale)]
    got = kernel.run(there[0], weight.to(layer.device), there[1], there[2]).float().cpu()  # type: ignore[arg-type]
    expected = seen(kernel, x, scale) @ weight.dequantize().T + bias.float()
    return float(((got - expected).norm(dim=1) / expected.norm(dim=1)).max())


def seen(kernel: Kernel, x: Tensor, scale: Tensor | None) -> Tensor:
    """The activations as this kernel's GEMM sees them, float32."""
    if kernel.family != "scaled_mm":
        return x.float()
    codes, x_scale = quantize_activation(x, scale)
    return codes.float() * x_scale


def sample(layer: Layer) -> tuple[QuantizedWeight, Tensor, Tensor]:
    """A seeded weight, activations and bias on the CPU, with rows of unlike size so that a wrong axis shows."""
    generator = torch.Generator().manual_seed(0)
    outputs, inputs = layer.shape
    tall = torch.logspace(-1, 1, outputs).unsqueeze(1)
    weight = torch.randn(outputs, inputs, generator=generator) * tall
    x = torch.randn(TOKENS, inputs, generator=generator) * torch.logspace(1, -1, TOKENS).unsqueeze(1)
    bias = torch.randn(outputs, generator=generator)
    return sample_weight(weight, layer.format, layer.granularity), x.to(layer.dtype), bias.to(layer.dtype)


def sample_weight(weight: Tensor, format: Format, granularity: Granularity) -> QuantizedWeight:
    """In any granularity, those that nobody writes included; for integer formats any byte is a code."""
    shape = (weight.shape[0], weight.shape[1])
    scale = scale_from_amax(granularity.amax(weight), format.maximum)
    scaled = weight / granularity.expand(scale, shape)
    if format.dtype.is_floating_point:
        codes = scaled.clamp(-format.maximum, format.maximum).to(format.dtype)
    else:
        codes = (scaled * 16).to(torch.int32).to(torch.uint8).view(format.dtype)[:, :: format.per_byte].contiguous()
    return QuantizedWeight(format, codes, scale.reshape(granularity.scale_shape(shape)), granularity, shape)


def first_line(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0][:120]}" if lines else type(problem).__name__


##### This machine, for people


@dataclass(frozen=True)
class Finding:
    """One kernel on one device, for activations of dtype."""

    device: str
    dtype: str
    kernel: str
    works: bool
    error: float | None
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
        columns = ("device", "activations", "kernel", "works", "error", "reason")
        return "\n".join((versions, *devices, "", text_table(columns, [cells(f) for f in self.findings])))

    def to_json(self) -> dict[str, object]:
        kernels = [asdict(finding) for finding in self.findings]
        return {"versions": self.versions, "devices": self.devices, "kernels": kernels}


def cells(finding: Finding) -> list[str]:
    error = "" if finding.error is None else f"{finding.error:.2g}"
    works = "yes" if finding.works else "no"
    return [finding.device, finding.dtype, finding.kernel, works, error, finding.reason or ""]


def doctor() -> Diagnosis:
    """Every kernel tried on every device of this machine, with float8_e4m3fn weights."""
    versions = {"torch": torch.__version__, "comfy-kitchen": version("comfy-kitchen")}
    found = devices()
    findings = (
        finding for device in found for dtype in (torch.bfloat16, torch.float32) for finding in probe(device, dtype)
    )
    return Diagnosis(versions, found, tuple(findings))


def probe(device: torch.device | str, dtype: torch.dtype) -> Iterator[Finding]:
    """What each kernel does on device."""
    for kernel in KERNELS:
        proof = prove(kernel, typical(kernel, torch.device(device), dtype))
        name = str(dtype).removeprefix("torch.")
        yield Finding(str(device), name, kernel.name, proof.works, proof.error, proof.reason)


def typical(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> Layer:
    """The first layer that kernel does not refuse."""
    layers = (
        Layer(float8_e4m3fn, granularity, SHAPE, device, dtype, activation=activation)
        for granularity in (PerRow(), PerTensor(), PerBlock(16, 16))
        for activation in ("dynamic", "static")
    )
    return next(layer for layer in layers if kernel.refuses(layer) is None)


def devices() -> dict[str, str]:
    """Devices of this machine -> their names."""
    found = {"cpu": torch.backends.cpu.get_cpu_capability()}
    for kind in (torch.cuda, torch.xpu):
        short = kind.__name__.removeprefix("torch.")
        found |= {f"{short}:{i}": kind.get_device_name(i) for i in range(kind.device_count())}
    return found | ({"mps:0": "Apple GPU"} if torch.backends.mps.is_available() else {})
