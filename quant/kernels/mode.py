"""How layers are asked to be computed."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import one_of

# compute -> families among which the fastest kernel is taken, and those that are asked where none of them is proven
FAMILIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "auto": (("scaled_mm", "int8", "block", "upcast"),),
    "scaled_mm": (("scaled_mm", "int8"), ("block", "upcast")),
    "int8": (("int8",), ("block", "upcast")),
    "upcast": (("upcast",),),
}
# dynamic: one scale a token as they come; dynamic-per-tensor: one for all of them; static: the file's input_scale
ACTIVATION_SCALES = ("dynamic", "dynamic-per-tensor", "static")


@dataclass(frozen=True)
class Mode:
    """compute: of FAMILIES; activation_scale: of ACTIVATION_SCALES. Refused for any other."""

    compute: str = "auto"
    activation_scale: str = "dynamic"

    def __post_init__(self) -> None:
        one_of("compute", self.compute, FAMILIES)
        one_of("activation_scale", self.activation_scale, ACTIVATION_SCALES)


AUTO, UPCAST, INT8 = Mode(), Mode("upcast"), Mode("int8")
