"""Writes docs/dialects.md from the table of dialects: python docs/write_dialects.py"""

from __future__ import annotations

from pathlib import Path

from scaled_fp8.quant.checkpoint.dialects import DIALECTS, Dialect
from scaled_fp8.quant.checkpoint.keys import ROLES, Role

TARGET = Path(__file__).with_name("dialects.md")
HEAD = """# Dialects

The ways in which producers store quantized weights, in the order in which a file is asked for them.
Written by docs/write_dialects.py from the table in quant/checkpoint/dialects.py.

Keys stand after the name of a module (`blocks.0.attn.qkv.weight_scale`); weights are `[out, in]`. A marker is what
`comfy_quant` beside a layer, or `_quantization_metadata` in the header, says of it. It is binding: a format that it
names is read as that format, and one that is unknown here refuses the layer by name. A marker without a format is
followed where it says all that the codes leave open (whether INT8 is rotated), else refused.

What a key is to its module, whoever wrote it. One that binds is used by exactly one weight, or its file is refused:

| role | endings | use | binds |
|---|---|---|---|
"""
ROLE = "| {role.name} | {endings} | {role.formula} | {binds} |\n"
ENTRY = """
## {name}

| | |
|---|---|
| written by | {producer} |
| keys | {keys} |
| formula | {formula} |
| example | {example} |
| told apart by | {recognised_by} |
| ComfyUI core 0.33 | {core} |
"""
REFUSED = "| if it cannot be read | {advice} |\n"


def entry(dialect: Dialect) -> str:
    fields = {name: str(value).replace("|", "\\|") for name, value in vars(dialect).items()}
    return (ENTRY + REFUSED * bool(dialect.advice)).format(**fields)


def row(role: Role) -> str:
    endings = ", ".join(f"`{suffix}`" for suffix in role.suffixes) or "beside certain others only"
    return ROLE.format(role=role, endings=endings, binds="yes" if role.binding else "")


def text() -> str:
    return HEAD + "".join(map(row, ROLES)) + "".join(map(entry, DIALECTS))


if __name__ == "__main__":
    TARGET.write_text(text())
