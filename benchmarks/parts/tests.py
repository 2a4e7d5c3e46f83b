"""What tests/gpu show on this GPU: each test's outcome, of as many as there is time for."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from threading import Timer

from ..comfyui import LONGEST, ROOT
from ..results import Part

COMMAND = "pytest tests/gpu"
# as pytest -v tells them: "tests/gpu/test_x.py::test_y[case] FAILED [ 3%]"
OUTCOME = re.compile(r"^tests/gpu/(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)
REASON = re.compile(r"^(?:FAILED|ERROR) tests/gpu/(\S+::.+?) - (.+)$", re.MULTILINE)


def gpu_tests(longest: float = LONGEST) -> Iterator[Part]:
    """As pytest tells them, one by one: a run that is cut short has those before."""
    command = [sys.executable, "-u", "-m", "pytest", "tests/gpu", "-v", "--tb=line", "-p", "no:cacheprovider"]
    output, until = "", time.monotonic() + longest
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        alarm = Timer(longest, process.kill)
        alarm.start()
        for line in process.stdout or ():
            output += line
            if OUTCOME.match(line):
                yield told(output)
        alarm.cancel()
    late = f"there was no time for the rest after {longest:.0f} s"
    yield told(output, late if time.monotonic() > until else output)


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
