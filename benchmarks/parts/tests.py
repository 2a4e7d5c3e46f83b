"""What tests/gpu show on this GPU: each test's outcome, of as many as there is time for."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

from ..comfyui import LONGEST, ROOT
from ..results import Part

COMMAND = "pytest tests/gpu"
# as pytest -v tells them: "tests/gpu/test_x.py::test_y[case] FAILED [ 3%]"
OUTCOME = re.compile(r"^tests/gpu/(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)
REASON = re.compile(r"^(?:FAILED|ERROR) tests/gpu/(\S+::.+?) - (.+)$", re.MULTILINE)


def gpu_tests(longest: float = LONGEST) -> Iterator[Part]:
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-v", "--tb=line", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=longest, check=False)
        yield told(done.stdout, done.stderr)
    except subprocess.TimeoutExpired as late:
        yield told(text(late.stdout), f"there was no time for the rest after {longest:.0f} s")


def told(output: str, otherwise: str = "") -> Part:
    """What pytest printed, as a part; otherwise: what to tell where it did not come to its end."""
    outcomes = dict(OUTCOME.findall(output))
    reasons = dict(REASON.findall(output))
    bad = {
        test: reasons.get(test, outcome.lower()) for test, outcome in outcomes.items() if outcome in ("FAILED", "ERROR")
    }
    counts = ", ".join(f"{count} {outcome.lower()}" for outcome, count in Counter(outcomes.values()).most_common())
    ended = re.search(r"^=+ .* in [\d.]+s", output, re.MULTILINE)
    lines = otherwise.strip().splitlines()
    notes = (counts or "no test was run", *([] if ended or not lines else lines[-1:]))
    return Part("tests", "What only a GPU can show", COMMAND, "", missing=bad, notes=notes)


def text(output: str | bytes | None) -> str:
    """What a process had printed when it was stopped."""
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
