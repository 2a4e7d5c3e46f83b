"""What this machine's devices can do: each kernel's proof and its time, as `scaled-fp8 doctor` tells them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch
from scaled_fp8.quant.kernels.diagnosis import Finding, devices, probe
from scaled_fp8.quant.kernels.speed import release

from ..comfyui import LONGEST
from ..results import Part

COMMAND = "scaled-fp8 doctor"


def doctor(longest: float = LONGEST) -> Iterator[Part]:
    """A line a kernel that works, and one for all that do not work for the same reason; GPUs first."""
    findings, until = list[Finding](), time.monotonic() + longest
    places = [(device, dtype) for device in sorted(devices(), reverse=True, key=on_gpu) for dtype in DTYPES]
    for device, dtype in places:
        for finding in probe(device, dtype):
            findings.append(finding)
            if time.monotonic() > until:
                yield told(findings, (f"there was no time for the rest after {longest:.0f} s",))
                return
            yield told(findings)
        release()


DTYPES = (torch.bfloat16, torch.float32)


def on_gpu(device: str) -> bool:
    return device != "cpu"


def told(findings: Iterable[Finding], notes: tuple[str, ...] = ()) -> Part:
    findings = list(findings)
    works = tuple(line(finding) for finding in findings if finding.works)
    missing: dict[str, list[str]] = {}
    for finding in findings:
        if not finding.works:
            missing.setdefault(str(finding.reason), []).append(f"{finding.kernel} ({finding.device}, {finding.dtype})")
    reasons = {", ".join(kernels): reason for reason, kernels in missing.items()}
    return Part("doctor", "What each kernel does here", COMMAND, "", missing=reasons, notes=(*works, *notes))


def line(finding: Finding) -> str:
    where = f"{finding.kernel} ({finding.device}, {finding.dtype})"
    time = "" if finding.time is None else f", {finding.time:.2f} of a bfloat16 Linear's time"
    return f"{where}: error {finding.error:.2g}{time}"
