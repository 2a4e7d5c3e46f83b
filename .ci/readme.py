"""The README's two commands, a line each: to run the demonstration, and to pass the tests."""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def commands(text: str) -> list[str]:
    """The lines of the first bash block that are no comments."""
    block = re.search(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = block.group(1).splitlines() if block else []
    return [line for line in lines if line and not line.startswith("#")]


def main() -> int:
    found = commands(README.read_text(encoding="utf-8"))
    if len(found) != 2 or "demo" not in found[0] or "pytest" not in found[1]:
        sys.stderr.write(f"README.md: its first bash block must hold the demo's command and the tests', got {found}\n")
        return 1
    sys.stdout.write("\n".join(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
