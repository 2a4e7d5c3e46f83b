"""The times of convert.py as JSON, from a process without torch: ``python -m benchmarks.conversion ROUNDS``.

A child's peak memory is at least that of the process which starts it, and one with torch's threads cannot fork.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from . import convert

LAYERS = 32  # of 32 MiB in bfloat16


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "m.safetensors", Path(folder) / "out.safetensors"
        convert.model(source, LAYERS)
        commands = {"cp": ["cp", str(source), str(out)], "scaled-fp8": convert.ours(source, out)}
        found = convert.rounds(commands, source, out, convert.read, int(sys.argv[1]))
        foreign = convert.ctq(source, out)
        if shutil.which(foreign[0]):
            found |= convert.rounds({"ctq": foreign}, source, out, convert.read, 1)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
