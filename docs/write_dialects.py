"""Writes docs/dialects.md from the table of dialects: python docs/write_dialects.py"""

from __future__ import annotations

from pathlib import Path

from scaled_fp8.quant.checkpoint.dialects import DIALECTS, Dialect

TARGET = Path(__file__).with_name("dialects.md")
HEAD = """# Dialects

The ways in which producers store quantized weights, in the order in which a file is asked for them.
Written by docs/write_dialects.py from the table in quant/checkpoint/dialects.py.

Keys stand after the name of a module (`blocks.0.attn.qkv.weight_scale`); weights are `[out, in]`. A marker is what
`comfy_quant` beside a layer, or `_quantization_metadata` in the header, says of it. It is binding: a format that it
names is read as that format, and one that is unknown here refuses the layer by name. A marker without a format is
followed where it says all that the codes leave open (whether INT8 is rotated), else refused.
"""
ENTRY = """
## {name}

| | |
|---|---|
| written by | {producer} |
| keys | {keys} |
| formula | {formula} |
| example | {example} |
| told apart by | {told} |
| ComfyUI core 0.33 | {core} |
"""
REFUSED = "| if it cannot be read | {advice} |\n"


def entry(dialect: Dialect) -> str:
    fields = {name: str(value).replace("|", "\\|") for name, value in vars(dialect).items()}
    return (ENTRY + REFUSED * bool(dialect.advice)).format(**fields)


def text() -> str:
    return HEAD + "".join(map(entry, DIALECTS))


if __name__ == "__main__":
    TARGET.write_text(text())
