"""What a marker may say of a layer: it is binding, so it is understood or the layer is refused by name."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from ..errors import AGAIN
from ..weights.formats import CALIBRATED, FORMATS
from ..weights.native import own_names
from .module import FLOAT8, POWERS, Module

# Name in a marker -> the format that its codes are in; core's own names, older ones, and this pack's.
MARKS: dict[str, str] = {
    **{name: format.name for name, format in own_names().items()},
    **{format.comfy: name for name, format in FORMATS.items() if format.comfy},
    **{name: name for name in CALIBRATED},
    "int8_tensorwise": "int8",
    "fp8": "float8_e4m3fn",
    "hybrid_mxfp8": "mxfp8",
    "kitchen_tile_packed_w4a4": "svdquant_w4a4",
}
# What changes the meaning of codes; a key that is nearly one of them is a damaged one.
BINDING = (
    "format", "convrot", "convrot_groupsize", "group_size", "orig_shape", "params", "act_unsigned", "comfy_quant",
)  # fmt: skip
# What a value must be where one of another type would be taken for true, or for none.
TYPES = {
    "convrot": bool, "act_unsigned": bool, "convrot_groupsize": int, "group_size": int, "orig_shape": list,
    "params": dict,
}  # fmt: skip
HARMLESS = ("orig_dtype", "full_precision_matrix_mult", "linear_dtype", "quant_group_size", "per_row", "rank")
ALIKE = 0.8


def base_of(module: Module) -> str:
    """Name in FORMATS or CALIBRATED of the format that a module's marker names, "" for none."""
    return MARKS.get(module.format, "")


def marker_problem(module: Module) -> str:
    """Why what a module's marker says cannot be followed, "" where it can or there is none."""
    marker = module.marker
    if damaged := [key for key in marker if key not in (*BINDING, *HARMLESS) and is_nearly(key)]:
        return f"its marker says {damaged[0]!r}, which is nearly {is_nearly(damaged[0])!r}: the marker is damaged"
    if mistyped := [key for key, kind in TYPES.items() if type(marker.get(key)) not in (kind, type(None))]:
        return f"its marker says {mistyped[0]} is {str(marker[mistyped[0]])[:40]!r}: the marker is damaged; {AGAIN}"
    if "format" in marker:
        known = isinstance(marker["format"], str) and module.format in MARKS
        return "" if known else unknown(marker["format"])
    return "" if not module.marked or tells(module) else (
        f"its marker names no format, and what else it says leaves open what its {module.dtype()} codes mean"
    )  # fmt: skip


def unknown(format: Any) -> str:
    return (
        f"its marker names the format {str(format)[:40]!r}, which is unknown here: "
        "update this pack, or get the model in another format"
    )


def is_nearly(key: str) -> str:
    return next(iter(get_close_matches(key, BINDING, 1, ALIKE)), "")


def tells(module: Module) -> bool:
    """Whether a marker without a format still says all that its codes leave open (ComfyUI-INT8-Fast)."""
    if module.dtype() == "I8":
        return isinstance(module.marker.get("convrot"), bool) or "per_row" in module.marker
    return module.dtype() in FLOAT8 and module.dtype("scale") not in POWERS
