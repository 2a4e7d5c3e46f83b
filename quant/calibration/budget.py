"""Budgets as people say them: "7 bits", "8 GB", "error 0.02"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf

from ..errors import Refused

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
EXAMPLES = 'say for example "7 bits", "8 GB" or "error 0.02"'


@dataclass(frozen=True)
class Budget:
    """kind: "bits" a weight of the layers that may be quantized, "bytes" of the model, or "error" of the image."""

    kind: str
    amount: float

    def __str__(self) -> str:
        if self.kind == "bytes":
            return size_text(self.amount)
        return f"{self.amount:g} bits" if self.kind == "bits" else f"error {self.amount:g}"


def budget_of(text: str) -> Budget:
    """What a text asks for; Refused where it asks for nothing that is known."""
    said = " ".join(text.split())
    patterns = {"bits": rf"{NUMBER} ?bits?", "bytes": rf"{NUMBER} ?([kmg]i?b)", "error": rf"error {NUMBER}"}
    for kind, pattern in patterns.items():
        found = re.fullmatch(pattern, said, re.IGNORECASE)
        if found and float(found[1]) < inf:
            return Budget(kind, float(found[1]) * (UNITS[found[2].upper()] if kind == "bytes" else 1))
    raise Refused(f"budget {said[:40]!r} is not understood; {EXAMPLES}.")


def size_text(size: float) -> str:
    """Bytes with three digits."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
