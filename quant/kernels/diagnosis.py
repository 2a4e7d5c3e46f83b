"""What a device can do: each kernel is run once on a small GEMM there, and its numbers checked against float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from math import isinf

import torch

from ..text import text_table
from ..weights.formats import FORMATS, HADAMARD_GROUPS, float8_e4m3fn
from ..weights.granularity import PerBlock, PerRow, PerTensor
from .proof import SHAPE, prove, prove_quantizer
from .proof_cache import Proof
from .quantizers import QUANTIZERS, Quantizer
from .registry import KERNELS, Kernel
from .rules import Workload
from .speed import beside_linear, measured, release
from .timing import noise

##### This machine, for people

# quantizer -> what it is shown by, where it has no float8 per-token
SHOWN = {
    "comfy-kitchen": "float8 static", "comfy-kitchen after torch": "float8 per-tensor", "gcc": "int8 per-token"
}  # fmt: skip


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
    findings = [
        finding for device in found for dtype in (torch.bfloat16, torch.float32) for finding in probe(device, dtype)
    ]
    release()
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
        scheme = SHOWN.get(quantizer.name, "float8 per-token")
        reason = quantizer.lacks(scheme, device)
        proof = Proof(None, reason) if reason else prove_quantizer(quantizer, scheme, device, dtype)
        time = quantizer_time(quantizer, scheme, device, dtype) if proof.works else None
        yield Finding(*place, f"{scheme} by {quantizer.name}", proof.works, proof.error, time, proof.reason)


def typical(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> Workload:
    """The first layer that kernel does not refuse; one of its own format where device does not suit it."""
    layers = [
        Workload(format, granularity, SHAPE, device, dtype, activation=activation, rotation=rotation)
        for format in (float8_e4m3fn, *FORMATS.values())
        for granularity in (PerRow(), PerTensor(), PerBlock(128, 128), *format.granularities)
        for activation in ("dynamic", "static")
        for rotation in (0, HADAMARD_GROUPS[-1])
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
    return (64, (512, 512)) if device.type == "cpu" else (4096, (3072, 3072))


def kernel_time(kernel: Kernel, layer: Workload) -> float | None:
    """Time of kernel over that of a bfloat16 Linear, None where it raises after all."""
    tokens, shape = timed_shape(layer.device)
    found, _ = measured(kernel, replace(layer, shape=shape), tokens)
    return None if isinf(found.ratio) else found.ratio


def quantizer_time(quantizer: Quantizer, scheme: str, device: torch.device, dtype: torch.dtype) -> float:
    tokens, (outputs, inputs) = timed_shape(device)
    x, weight = (noise(rows, inputs, device=device).bfloat16() for rows in (tokens, outputs))
    given, scale = x.to(dtype), torch.full((1, 1), 0.01, device=device)
    with torch.inference_mode():
        return beside_linear(lambda: quantizer.schemes()[scheme](given, scale), x, weight)
