"""What stands before the same layer's name in files, loaders and modules: every known prefix, in one place."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Of a diffusion model, longest first: where one side has one of these and the other has not, it is the same layer.
MODEL = (
    "model.diffusion_model.", "model.transformer.", "diffusion_model.", "transformer.", "unet.", "net.", "dit.",
    "model.", "module.", "_orig_mod.",
)  # fmt: skip
# Those of MODEL that ComfyUI's own detection strips, or that its text encoders need.
COMFYUI = ("model.diffusion_model.", "model.", "net.")
# Component -> segments of a prefix, as regular expressions, that say so of the tensors under it.
PARTS: dict[str, tuple[str, ...]] = {
    "vae": ("first_stage_model", "vae"),
    "encoder": (
        "cond_stage_model", "conditioner", "text_encoders?", "text_encoder_2", "language_model", "t5xxl", "t5base",
        "umt5xxl", r"gemma3_\w+", r"qwen\w+", r"clip_\w", r"embedders\.\d",
    ),
    "transformer": ("diffusion_model", "unet", "net", "dit"),
}  # fmt: skip
# A part of the name in some text encoders, a prefix in others.
AMBIGUOUS = ("text_model.",)

SEGMENTS = "|".join(sorted({part for name in MODEL for part in name.split(".") if part} | {*sum(PARTS.values(), ())}))
SEGMENT = re.compile(rf"({SEGMENTS})\.")
PREFIX = re.compile(rf"^(({SEGMENTS})\.)+")
COMPONENTS = {component: re.compile(rf"(^|\.)({'|'.join(names)})\.") for component, names in PARTS.items()}


def prefix_of(name: str) -> str:
    """All known segments that a name begins with, "" for none."""
    found = PREFIX.match(name)
    return found.group() if found else ""


def without_prefixes(name: str) -> str:
    return name.removeprefix(prefix_of(name))


def without_model(name: str) -> str:
    """A layer's name without the one prefix of a diffusion model; those of other components stay."""
    return next((name.removeprefix(prefix) for prefix in MODEL if name.startswith(prefix)), name)


def prefixes_of(name: str) -> Iterator[str]:
    """Every known prefix that a name begins with, the empty one first."""
    end = 0
    yield ""
    while found := SEGMENT.match(name, end):
        end = found.end()
        yield name[:end]
    yield from (name[:end] + prefix for prefix in AMBIGUOUS if name[end:].startswith(prefix))


def component_of(prefix: str) -> str | None:
    """What a prefix says its tensors are: "vae", "encoder" or "transformer"; None where it says nothing."""
    return next((component for component, pattern in COMPONENTS.items() if pattern.search(prefix)), None)
