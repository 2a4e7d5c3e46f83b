"""Layers that a list of names leaves in high precision: a user's, or that of a checkpoint's own config."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import Refused

# What producers call the list in a quantization config: compressed-tensors, vLLM, transformers and diffusers, ModelOpt.
KEYS = ("ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules")
EXPRESSION = "re:"  # before a regular expression, in compressed-tensors' lists
# A config comes with a download: an expression that could take for ever is not tried.
REPEATS = 3


def ignored_pattern(names: Iterable[str]) -> str:
    """A regular expression for layers of these names and all below them, "" for none.

    A name may have the wildcard *, or be a regular expression after "re:", which then matches from the start.
    """
    return "|".join(dict.fromkeys(expression(name) for name in names))


def expression(name: str) -> str:
    if name.startswith(EXPRESSION):
        return f"^(?:{checked(name.removeprefix(EXPRESSION))})"
    literal = re.escape(name.removesuffix(".weight")).replace(r"\*", ".*")
    return rf"^{literal}(?:\.|$)"


def checked(pattern: str) -> str:
    """The regular expression; Refused where it is none, or repeats too much to be tried on every name."""
    try:
        re.compile(pattern)
    except re.error as problem:
        raise Refused(f"Ignored layer {EXPRESSION}{pattern} is not a regular expression: {problem}.") from None
    if len(re.findall(r"[*+{]", pattern)) > REPEATS or re.search(r"\)[*+{?]", pattern):
        raise Refused(
            f"Ignored layer {EXPRESSION}{pattern[:80]} repeats groups or more than {REPEATS} things, which may take "
            "for ever; name these layers by keep."
        )
    return pattern


def ignored_by(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that a quantization config leaves in high precision."""
    found = [config.get(key) for key in KEYS]
    return tuple(str(name) for names in found if isinstance(names, list) for name in names)
