"""Layers that a list of names leaves in high precision: a user's, or that of a checkpoint's own config."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ..patterns import Pattern, compiled

# What producers call the list in a quantization config: compressed-tensors, vLLM, transformers and diffusers, ModelOpt.
KEYS = ("ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules")
EXPRESSION = "re:"  # before a regular expression, in compressed-tensors' lists


@dataclass(frozen=True)
class Ignored:
    """names: each stands for its layer and all below it; patterns: of those with wildcards."""

    names: frozenset[str]
    patterns: tuple[Pattern, ...]

    def __contains__(self, layer: str) -> bool:
        above = accumulate(layer.split("."), "{}.{}".format)
        return not self.names.isdisjoint(above) or any(pattern.search(layer) for pattern in self.patterns)


def ignored(names: Iterable[str]) -> Ignored:
    """A list as producers write it: a name may have the wildcard *, or be a regular expression after "re:".

    Such an expression matches from a layer's first character on.
    """
    listed = dict.fromkeys(name if name.startswith(EXPRESSION) else name.removesuffix(".weight") for name in names)
    special = [name for name in listed if name.startswith(EXPRESSION) or "*" in name]
    patterns = tuple(compiled(expression(name), "ignored layer") for name in special)
    return Ignored(frozenset(listed) - frozenset(special), patterns)


def expression(name: str) -> str:
    if name.startswith(EXPRESSION):
        return f"^(?:{name.removeprefix(EXPRESSION)})"
    return rf"^{re.escape(name)}(?:\.|$)".replace(r"\*", ".*")


def ignored_by(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that a quantization config leaves in high precision."""
    found = [config.get(key) for key in KEYS]
    return tuple(str(name) for names in found if isinstance(names, list) for name in names)
