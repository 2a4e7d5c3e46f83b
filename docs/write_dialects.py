"""Writes docs/dialects.md from the table of dialects: python docs/write_dialects.py"""

from __future__ import annotations

from pathlib import Path

from scaled_fp8.quant.checkpoint.dialects import DIALECTS

TARGET = Path(__file__).with_name("dialects.md")
HEAD = """# Dialects

The ways in which producers store scaled weights, in the order in which a file is asked for them.
Written by docs/write_dialects.py from the table in quant/checkpoint/dialects.py.

| dialect | written by | if it cannot be read as it is |
|---|---|---|
"""


def text() -> str:
    return HEAD + "".join(f"| {d.name} | {d.producer} | {d.advice} |\n" for d in DIALECTS)


if __name__ == "__main__":
    TARGET.write_text(text())
