"""Which component each part of a checkpoint is, and which of its layers the user's request and settings quantize."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import names
from ..errors import Refused
from ..weights.formats import Format, format_named
from ..weights.granularity import Granularity
from ..weights.native import loads_in_core
from .families import Family
from .policy import NO_FAMILY, Decision, Policy, bare_name, family_named, recognise
from .unscaled import Shapes, unscaled

if TYPE_CHECKING:
    from .settings import Setting, Settings

# What names without such a prefix say, where no family is recognised.
SIGNS: tuple[tuple[str, str], ...] = (
    # first, for Whisper has an encoder.conv1 as Wan's VAE has
    (
        r"^(text_model|transformer\.resblocks|encoder\.(block|layer|embed_positions)|layers\.\d+\.self_attn|visual)\b",
        "encoder",
    ),
    (r"^(encoder|decoder)\.(conv_in|conv1|conv_out|mid|mid_block|up_blocks|down_blocks)\b", "vae"),
)


@dataclass(frozen=True)
class QuantizationRequest:
    """Which layers are to become what; None and "" leave it to settings and rules.

    component: what the file is; of an all-in-one checkpoint, the only part to quantize; unsupported: also to what
    ComfyUI core cannot load; ignored: names of layers to leave, each with all below it, beside those that the source's
    own config names.
    """

    format: str | None
    granularity: str | None = None
    keep: str = ""
    family: str | None = None
    component: str | None = None
    unsupported: bool = False
    settings: Settings | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scope:
    """One part of a checkpoint. policy: None where it stays as it is, for reason; origin: where each choice is from.

    refusal: why a checkpoint is not quantized that has no other part, "" for none.
    """

    prefix: str
    component: str
    family: Family | None
    policy: Policy | None
    reason: str = ""
    origin: str = ""
    refusal: str = ""

    def decide(self, name: str, shape: tuple[int, ...]) -> Decision:
        return self.policy.decide(name, shape) if self.policy else Decision(False, self.reason)

    def line(self) -> str:
        """For the report."""
        where = f"{self.prefix}*: " if self.prefix else ""
        family = f", {self.family.title}" if self.family else ""
        what = f"{self.policy.format.name} {self.policy.granularity.name}" if self.policy else self.reason
        return f"{where}{self.component}{family}: {what}" + (f" ({self.origin})" if self.origin else "")


@dataclass(frozen=True)
class Scopes:
    """The parts of one checkpoint, by the prefix of their names."""

    found: dict[str, Scope] = field(default_factory=dict)

    def of(self, name: str) -> Scope:
        return self.found[prefix_of(name)]


def find_scopes(shapes: Shapes, request: QuantizationRequest) -> Scopes:
    """The policy for each part that the names of a model's tensors belong to; Refused where a request cannot be met."""
    parts = by_prefix(shapes)
    kinds = {prefix: component_of(prefix, group, shapes) for prefix, group in parts.items()}
    single = len(set(kinds.values())) == 1
    scopes = {
        prefix: scope(prefix, (single and request.component) or kinds[prefix], group, request, single)
        for prefix, group in parts.items()
    }
    if scopes and all(found.refusal for found in scopes.values()):
        raise Refused(next(iter(scopes.values())).refusal)
    return Scopes(scopes)


def lost_in_core(shapes: Shapes, scaled: Iterable[str]) -> tuple[str, ...]:
    """What ComfyUI core would make of a file without an error, a sentence a part; scaled: layers that have scales."""
    prefixes = {prefix_of(name) for name in scaled}
    parts = by_prefix(shapes).items()
    kinds = [unscaled(group) for prefix, group in parts if prefix in prefixes]
    return tuple(dict.fromkeys(kind.warning for kind in kinds if kind))


def by_prefix(shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of each part's tensors."""
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        parts.setdefault(prefix_of(name), {})[name] = shape
    return parts


def prefix_of(name: str) -> str:
    """What stands before the names of one component, "" where it tells nothing."""
    prefix = names.prefix_of(name)
    return prefix if names.component_of(prefix) else ""


def component_of(prefix: str, tensors: Collection[str], everything: Collection[str]) -> str:
    """Component of a part of an all-in-one checkpoint: by its prefix, its family, or signs in its names."""
    known = names.component_of(prefix)
    if known:
        return known
    family = recognise(tensors) or recognise(everything)
    if family:
        return family.component
    bare = [bare_name(name) for name in tensors]
    signs = (component for pattern, component in SIGNS if any(re.search(pattern, name) for name in bare))
    return next(signs, "transformer")


##### What becomes of a part


def scope(prefix: str, component: str, shapes: Shapes, request: QuantizationRequest, single: bool) -> Scope:
    """What is asked for, for one part: its policy, or why it stays in high precision."""
    family = family_of(shapes, component, request, single)
    if request.component and request.component != component:
        return Scope(prefix, component, family, None, f"kept: only the {request.component} was asked for")
    if component == "vae" and not single and not request.component:
        return Scope(prefix, component, family, None, "kept: ComfyUI core loads no quantized VAE")
    format, origin = format_of(component, family, request)
    if format is None:
        return Scope(prefix, component, family, None, f"kept: {origin}", "")
    unread = None if request.unsupported else unscaled(shapes)
    if unread:
        return Scope(prefix, component, family, None, unread.kept, refusal=unread.refusal)
    granularity, source = granularity_of(format, family, request)
    check_supported(format, granularity, component, request)
    policy = Policy(format, granularity, component, family, request.keep, request.ignored)
    return Scope(prefix, component, family, policy, origin=f"format: {origin}; granularity: {source}")


def family_of(tensors: Iterable[str], component: str, request: QuantizationRequest, single: bool) -> Family | None:
    """The requested family, of the component it is for; else the recognised one."""
    if request.family == NO_FAMILY:
        return None
    requested = family_named(request.family) if request.family else None
    return requested if requested and (single or requested.component == component) else recognise(tensors, component)


# what every reader of FP8 files loads
FOR_ANY = "fp8-weight-only"


def format_of(component: str, family: Family | None, request: QuantizationRequest) -> tuple[Format | None, str]:
    """The format and where it is from; None for one that settings leave as it is."""
    if request.format:
        return format_named(request.format), "argument"
    if request.settings is None:
        raise Refused("No format is given; say --format, or --config with a settings file.")
    from .auto import pick

    setting = resolved(component, family, request.settings)
    # a file is for other devices than the one that writes it
    name = FOR_ANY if setting.value == "auto" and component != "vae" else setting.value
    picked = pick(name, "cpu", component=component).method
    origin = f"method {setting}"
    return (None, origin) if picked.name == "none" else (picked.format, origin)


def granularity_of(format: Format, family: Family | None, request: QuantizationRequest) -> tuple[Granularity, str]:
    """The granularity asked for; else the settings' where the format has it; else the one that core loads."""
    if request.granularity:
        return format.granularity(request.granularity), "argument"
    setting = resolved("granularity", family, request.settings) if request.settings else None
    known = [g for g in format.granularities if setting and g.name == setting.value]
    if setting and not setting.is_default and known:
        return known[0], setting.origin
    return format.granularities[0], f"default of {format.name}"


def resolved(key: str, family: Family | None, settings: Settings) -> Setting:
    return settings.resolve(key, family.name if family else None)


def check_read_by_core(shapes: Shapes, component: str, request: QuantizationRequest) -> None:
    """Refused where core drops the scales of a part that is this component."""
    for prefix, group in by_prefix(shapes).items():
        unread = unscaled(group)
        if unread and not request.unsupported and (names.component_of(prefix) or component) == component:
            raise Refused(unread.refusal)


def check_supported(format: Format, granularity: Granularity, component: str, request: QuantizationRequest) -> None:
    what = "a quantized VAE" if component == "vae" else f"{format.name} {granularity.name}"
    if request.unsupported or (component != "vae" and loads_in_core(format, granularity)):
        return
    loaded = [g.name for g in format.granularities if loads_in_core(format, g)]
    instead = f"choose granularity {loaded[0]}" if loaded and component != "vae" else "choose another format"
    raise Refused(f"ComfyUI core does not load {what}; {instead}, or say --allow-unsupported: this pack loads it.")
