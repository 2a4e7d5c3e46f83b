"""Counts of two pytest runs, unit and contract, as the last lines of a check."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree


def counts(report: str) -> tuple[int, int, int]:
    """Passed, failed and skipped of one junit file; a run that wrote none failed."""
    if not Path(report).exists():
        return 0, 1, 0
    suite = ElementTree.parse(report).getroot().find("testsuite")
    total, skipped = int(suite.get("tests")), int(suite.get("skipped"))
    failed = int(suite.get("failures")) + int(suite.get("errors"))
    return total - failed - skipped, failed, skipped


def main() -> int:
    unit, contract = (counts(report) for report in sys.argv[1:3])
    ran, skipped = contract[0] + contract[1], contract[2]
    sys.stdout.write(f"ComfyUI contract tests: {ran} ran, {skipped} skipped\n")
    for name, numbers in (("unit", unit), ("contract", contract), ("all", map(sum, zip(unit, contract, strict=True)))):
        sys.stdout.write("{}: {} passed, {} failed, {} skipped\n".format(name, *numbers))
    return 1 if unit[1] + contract[1] else 0


if __name__ == "__main__":
    sys.exit(main())
