"""Writes docs/api.md from the docstrings of what is public: python docs/write_api.py"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from scaled_fp8 import quant

TARGET = Path(__file__).with_name("api.md")
HEAD = """# Python

`from scaled_fp8 import quant`; no ComfyUI needed. Written by docs/write_api.py from the docstrings.
"""


def text() -> str:
    return "\n".join([HEAD, *(line for module in quant.PUBLIC for line in section(module))])


def section(module: str) -> Iterator[str]:
    yield f"## quant/{module.replace('.', '/')}.py\n"
    for name in quant.PUBLIC[module]:
        yield from entry(name, getattr(quant, name))


def entry(name: str, thing: object) -> Iterator[str]:
    yield f"### {name}\n"
    if not callable(thing):
        yield f"A table of {len(thing)}: {', '.join(f'`{key}`' for key in names(thing))}.\n"
        return
    if not (inspect.isclass(thing) and issubclass(thing, Exception)):
        yield f"```python\n{signature(name, thing)}\n```\n"
    yield f"{described(thing)}\n"
    for method, function in methods(thing):
        yield f"- `{signature(method, function)}`: {described(function).splitlines()[0]}"
    if any(methods(thing)):
        yield ""


def names(table: object) -> list[str]:
    """Keys of a table, or the names of its entries."""
    return list(table) if isinstance(table, dict) else [str(getattr(entry, "name", entry)) for entry in table]


class Elided:
    """A default that has no short text."""

    def __repr__(self) -> str:
        return "..."


def signature(name: str, function: object) -> str:
    """As it is written, without self; annotations are strings, and lose their quotes."""
    found = inspect.signature(function)
    told = [shortened(p) for p in found.parameters.values() if p.name != "self"]
    text = str(found.replace(parameters=told))
    return name + re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


def shortened(parameter: inspect.Parameter) -> inspect.Parameter:
    default = parameter.default
    simple = default is parameter.empty or isinstance(default, str | int | float | None)
    return parameter if simple else parameter.replace(default=Elided())


def described(thing: object) -> str:
    """The docstring as Markdown: examples as blocks."""
    lines, out, code = (inspect.getdoc(thing) or "").splitlines(), [], False
    for line in lines:
        begins = line.startswith(">>> ") and not code
        ends = code and not line
        out += ["```python"] if begins else ["```"] if ends else []
        code = (code or begins) and not ends
        out.append(line)
    return "\n".join(out + ["```"] * code)


def methods(thing: object) -> list[tuple[str, object]]:
    """Public methods of a class that say what they do, in the order of their definition."""
    found = vars(thing).items() if inspect.isclass(thing) else ()
    return [(name, f) for name, f in found if inspect.isfunction(f) and f.__doc__ and not name.startswith("_")]


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
