"""What Measure Sensitivity believes of its own progress, a file that others may have edited or exchanged."""

from __future__ import annotations

import importlib
import os
import sys

from inside import BASE, answer, pack

pack()
NAME = next(name for name in sys.modules if name.endswith(".nodes.measure_sensitivity"))
sensitivity = importlib.import_module(NAME.replace(".measure_sensitivity", ".host.sensitivity"))
HOSTILE = {
    "sound": b'{"a": 0.5}', "empty": b"", "no JSON": b"{", "nested": b"[" * 200_000, "list": b"[1]", "null": b"null",
    "words": b'{"a": "b"}', "huge": b'{"a": ' + b"9" * 400 + b"}", "bytes": b"\xff\xfe\x00", "inf": b'{"a": 1e999}',
}  # fmt: skip
believed = {}
for kind, content in HOSTILE.items():
    path = BASE / "progress.json"
    path.write_bytes(content)
    believed[kind] = sensitivity.Progress(path).found
os.unlink(path)
believed["absent"] = sensitivity.Progress(path).found
os.mkfifo(path)
believed["pipe"] = sensitivity.Progress(path).found
os.unlink(path)
answer(believed)
