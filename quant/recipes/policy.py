"""Which layers are quantized: the user's request, the family's rules, the component's, then what a format can hold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod

from ..errors import Refused, one_of
from ..names import without_prefixes
from ..patterns import Pattern, compiled
from ..weights.encode import unfit
from ..weights.formats import FORMATS, Format
from ..weights.granularity import Granularity
from .families import FAMILIES, GENERIC, Family, Rule
from .ignored import Ignored, ignored

NO_FAMILY = "none"
IGNORED = "in the list of ignored layers"
SMALLEST = 16  # outputs or inputs below which a GEMM on codes gains nothing


@dataclass(frozen=True)
class Decision:
    """Whether a layer is quantized, and why (not)."""

    quantize: bool
    reason: str


@dataclass(frozen=True)
class Policy:
    """The rules for one component of one model. keep: regular expression of layers that stay as they are, or "".

    ignored: names of layers that stay as they are with all below them, beside keep; as ignored reads them.
    """

    format: Format
    granularity: Granularity
    component: str = "transformer"
    family: Family | None = None
    keep: str = ""
    ignored: tuple[str, ...] = ()
    patterns: tuple[tuple[re.Pattern[str], Rule], ...] = field(init=False, repr=False, compare=False)
    asked: Pattern | None = field(init=False, repr=False, compare=False)
    listed: Ignored = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_component(self.component, self.format)
        own = self.family.rules if self.family else ()
        rules = tuple((re.compile(rule.pattern), rule) for rule in (*own, *GENERIC[self.component]))
        asked = compiled(self.keep, "keep") if self.keep else None
        object.__setattr__(self, "patterns", rules)
        object.__setattr__(self, "asked", asked)
        object.__setattr__(self, "listed", ignored(self.ignored))

    def decide(self, name: str, shape: tuple[int, ...], already: str = "") -> Decision:
        """name: of the layer, with any prefix, without .weight; already: the format it is quantized to, if it is."""
        if already:
            return Decision(False, f"already {already}: left as it is")
        rule = self.rule(name)
        if rule and rule.keep:
            return Decision(False, rule.reason)
        if problem := self.unfit(shape):
            return Decision(False, problem)
        return Decision(True, rule.reason if rule else f"{self.format.name} {self.granularity.name}")

    def rule(self, name: str) -> Rule | None:
        """The first rule that matches; keep is asked about the whole name, the others about that without prefix."""
        if self.asked and self.asked.search(name):
            return Rule(self.keep, f"kept as asked: {self.keep}")
        bare = bare_name(name)
        if name in self.listed or bare in self.listed:
            return Rule("", IGNORED)
        return next((rule for pattern, rule in self.patterns if pattern.search(bare)), None)

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        """Why a weight of this shape is not quantized, or None."""
        if len(shape) < 2:
            return f"not a matrix: {list(shape)}"
        if len(shape) > 2 and self.component != "vae":
            return f"a convolution {list(shape)}: only a VAE's are quantized"
        matrix = (shape[0], prod(shape[1:]))
        if min(matrix) < SMALLEST:
            return f"too small: {list(shape)}, {SMALLEST} are the least that pay"
        return unfit(self.format, self.granularity, matrix)


def decide(
    name: str,
    shape: tuple[int, ...],
    format: Format,
    granularity: Granularity,
    family: Family | str | None = None,
    component: str = "transformer",
    keep: str = "",
) -> Decision:
    """Whether one layer is quantized; for many layers make one Policy."""
    known = family_named(family) if isinstance(family, str) else family
    return Policy(format, granularity, component, known, keep).decide(name, shape)


def recognise(names: Iterable[str], component: str | None = None) -> Family | None:
    """The family that names of layers or tensors belong to, or None: the generic rules are for that."""
    bare = {bare_name(name) for name in names}
    for family in FAMILIES.values():
        fits = component is None or family.component == component
        if fits and any(all(found_in(bare, sign) for sign in signs) for signs in family.signs):
            return family
    return None


def found_in(names: Iterable[str], pattern: str) -> bool:
    return any(re.search(pattern, name) for name in names)


def bare_name(name: str) -> str:
    """Without the prefixes that loaders put before it, and without .weight."""
    return without_prefixes(name).removesuffix(".weight")


def family_named(name: str) -> Family | None:
    """The family of that name, None for the generic rules."""
    return FAMILIES.get(one_of("family", name, (*FAMILIES, NO_FAMILY)))


def check_component(component: str, format: Format) -> None:
    """Refused for components that are none, and for formats that a component cannot stand."""
    one_of("component", component, GENERIC)
    if component == "vae" and format is not FORMATS["int8"]:
        raise Refused(
            f"component 'vae' is not quantized to {format.name}: no {format.name} convolution runs it, decoding is a "
            "small part of the time, and a VAE shows every error as it is; choose int8, weight-only, or leave the VAE."
        )
