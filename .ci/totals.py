"""What ran, what was skipped and why, of pytest's reports, as the last lines of a check."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
# what is counted apart -> how its test classes begin
APART = {
    "ComfyUI contract tests": "tests.comfyui.",
    "of these in a real browser": "tests.comfyui.test_browser",
    "tests that need a GPU": "tests.gpu.",
}


def cases(report: Path) -> list[ElementTree.Element]:
    """Every test of one junit file; none where the run wrote no file."""
    return list(ElementTree.parse(report).iter("testcase")) if report.exists() else []


def outcome(case: ElementTree.Element) -> str:
    kinds = {child.tag for child in case}
    return FAILED if kinds & {"failure", "error"} else SKIPPED if "skipped" in kinds else PASSED


def counted(tests: Iterable[ElementTree.Element]) -> Counter[str]:
    return Counter(outcome(case) for case in tests)


def line(count: Counter[str]) -> str:
    return ", ".join(f"{count[kind]} {kind}" for kind in (PASSED, FAILED, SKIPPED))


def reasons(tests: Iterable[ElementTree.Element]) -> Counter[str]:
    return Counter(skip.get("message", "") for case in tests for skip in case.iter("skipped"))


def main() -> int:
    reports = [Path(name) for name in sys.argv[1:]]
    missing = [report.name for report in reports if not cases(report)]
    tests = [case for report in reports for case in cases(report)]
    for reason, count in reasons(tests).most_common():
        sys.stdout.write(f"skipped {count}: {reason}\n")
    for name, start in APART.items():
        part = counted(case for case in tests if case.get("classname", "").startswith(start))
        loud = "" if part[PASSED] + part[FAILED] else "NOT RUN: "
        sys.stdout.write(f"{loud}{name}: {line(part)}\n")
    for name in missing:
        sys.stdout.write(f"no test ran for {name}\n")
    total = counted(tests)
    total[FAILED] += len(missing)
    sys.stdout.write(line(total) + "\n")
    return 1 if total[FAILED] else 0


if __name__ == "__main__":
    sys.exit(main())
