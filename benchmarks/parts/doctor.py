"""What this machine's devices can do: each kernel's proof and its time, as `scaled-fp8 doctor` tells them."""

from __future__ import annotations

from collections.abc import Iterator

from scaled_fp8.quant.kernels.diagnosis import Diagnosis, Finding
from scaled_fp8.quant.kernels.diagnosis import doctor as diagnose

from ..results import Part

COMMAND = "scaled-fp8 doctor"


def doctor() -> Iterator[Part]:
    """A line a kernel that works, and one for all that do not work for the same reason."""
    yield told(diagnose())


def told(diagnosis: Diagnosis) -> Part:
    works = tuple(line(finding) for finding in diagnosis.findings if finding.works)
    missing: dict[str, list[str]] = {}
    for finding in diagnosis.findings:
        if not finding.works:
            missing.setdefault(str(finding.reason), []).append(f"{finding.kernel} ({finding.device}, {finding.dtype})")
    reasons = {", ".join(kernels): reason for reason, kernels in missing.items()}
    return Part("doctor", "What each kernel does here", COMMAND, "", missing=reasons, notes=works)


def line(finding: Finding) -> str:
    where = f"{finding.kernel} ({finding.device}, {finding.dtype})"
    return f"{where}: error {finding.error:.2g}, {finding.time:.2f} of a bfloat16 Linear's time"
