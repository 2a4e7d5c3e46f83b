"""From a module's header facts to a Layer; whatever does not fit together is refused with the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import AGAIN, Refused
from ..weights.formats import CALIBRATED, FORMATS, Format
from .dialects import Dialect, dialect_of
from .keys import BINDING, PAIRED
from .kinds import (
    AWQ,
    MXFP4,
    MXFP8,
    NUNCHAKU,
    NUNCHAKU_AWQ,
    NUNCHAKU_FUSED,
    NUNCHAKU_NVFP4,
    NVFP4,
    NVFP4_LOW,
    SCALED,
    SCALED_LOWRANK,
    SVDQUANT,
    SVDQUANT_TILES,
    UNSCALED,
    W4A4,
    W4A8,
    Kind,
)
from .layer import Layer, unpadded
from .markers import base_of, marker_problem
from .module import BYTES, FLOAT8, Module
from .nunchaku import AFTER_GELU
from .scale_fit import check_scale_dtype, fits_of, matrix_of, swizzled
from .scale_shape import Shape

FORMAT_OF = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I8": "int8",
}
# dialects whose I8 weights are known not to be rotated, or whose marker says whether they are
KNOWN_INT8 = {"D25", "D25b", "D25c", "D15", "D18", "D19", "D26"}
# by the format that a marker names, and by dialect
BY_BASE = {
    "nvfp4": NVFP4, "mxfp8": MXFP8, "int4_convrot": W4A4, "int4": W4A8, "svdquant_w4a4": SVDQUANT, "awq_w4a16": AWQ,
}  # fmt: skip
BY_DIALECT = {
    "D23b": MXFP8, "D24b": NVFP4_LOW, "D24c": NVFP4_LOW, "D24d": NVFP4_LOW, "D35": MXFP4, "D27": NUNCHAKU,
    "D1, D30": UNSCALED,
}  # fmt: skip
# roles that any kind may use beside those it needs; a binding role outside refuses the layer
OPTIONAL = ("smooth", "bias_scale")
EVERY = {**FORMATS, **CALIBRATED}


def layer_of(module: Module, bytes_are: str | None = None) -> Layer:
    """The layer that a module's header describes; Refused, as a sentence without the layer's name, if none is sure.

    bytes_are: name of the FP8 format that U8 weights of this file hold, by their bytes.
    """
    if problem := marker_problem(module) or emptied(module):
        raise Refused(problem)
    dialect = known_dialect(module)
    kind = kind_of(module, dialect)
    check_parts(module, kind)
    format = format_of(module, dialect, kind, bytes_are)
    check_scale_dtype(module, kind)
    stored, scale = matrix_of(module, kind)
    found = fits_of(module, kind, stored, scale)
    layer = Layer(
        module=module,
        dialect=dialect,
        kind=kind,
        format=format,
        stored=stored,
        fits=found,
        full=full_shape(module, kind, stored),
    )
    layer = replace(layer, rotation=rotation(module, kind, stored[1]), unsigned=unsigned(module, kind))
    if kind.block:
        check_original_shape(layer)
        layer = replace(layer, swizzled=swizzled(layer, scale))
    return replace(layer, reciprocal=module.key("scale") is None and module.key("quant_scale") is not None)


def check_original_shape(layer: Layer) -> None:
    """Refused where the shape that a marker gives is none that was filled up to the stored one."""
    known, stored = layer.module.marker.get("orig_shape"), [*layer.stored]
    if isinstance(known, list) and len(known) == 2 and [*map(unpadded, stored, known)] != known:
        raise Refused(f"its marker says {known}, but its codes are {stored}: marker and tensor disagree; {AGAIN}")


def emptied(module: Module) -> str:
    """Why a module is no weight, "" where it may be one: a part without elements."""
    parts = [suffix for suffix in module.keys if module.role(suffix) not in ("marker", "placeholder")]
    empty = next((key for suffix in parts if 0 in module.source[key := module.keys[suffix]].shape), "")
    return f"{empty} has no elements: the file is damaged or was cut, get it again" if empty else ""


def known_dialect(module: Module) -> Dialect:
    dialect = dialect_of(module)
    if dialect is None:
        raise Refused(f"{module.dtype()} codes without any scale are in no known dialect: get a file with its scales")
    if dialect.advice and not (dialect.number == "D26" and module.clues.method == "sdnq"):
        raise Refused(f"{dialect.name} ({dialect.producer}) cannot be read: {dialect.advice}")
    return dialect


def kind_of(module: Module, dialect: Dialect) -> Kind:
    """How a module of this dialect stores its weight."""
    if dialect.number == "D27b":
        return nunchaku_nvfp4(module)
    if dialect.number == "D27":
        return NUNCHAKU if module.dtype() == "I8" else NUNCHAKU_AWQ
    if dialect.marked:
        kind = BY_BASE.get(base_of(module), SCALED_LOWRANK if module.format.endswith("_lowrank") else SCALED)
        return SVDQUANT_TILES if kind is SVDQUANT and len(module.shape()) == 4 else kind
    return BY_DIALECT.get(dialect.number, SCALED)


def nunchaku_nvfp4(module: Module) -> Kind:
    if module.key("scale") and module.dtype("scale") not in ("F8_E4M3", "U8"):
        raise Refused(f"{module.key('scale')} is {module.dtype('scale')} but scales of Nunchaku's NVFP4 are F8_E4M3: "
                      "get the file again")  # fmt: skip
    return NUNCHAKU_FUSED if module.key("output_factor") else NUNCHAKU_NVFP4


def full_shape(module: Module, kind: Kind, stored: tuple[int, int]) -> Shape:
    """The weight's own shape: of more than two dimensions where it is a convolution's, not where it lies in tiles."""
    return module.shape() if kind.per_element == 1 else stored


def unsigned(module: Module, kind: Kind) -> bool:
    """Whether activations are shifted; Refused where the bias that makes up for it is missing."""
    asked = module.marker.get("act_unsigned") if kind in (SVDQUANT, SVDQUANT_TILES) else kind is NUNCHAKU and bool(
        AFTER_GELU.search(module.name)
    )  # fmt: skip
    if asked and module.key("bias") is None:
        raise Refused(f"its activations are shifted (act_unsigned) but it has no bias that makes up for it; {AGAIN}")
    return bool(asked)


def check_parts(module: Module, kind: Kind) -> None:
    """Refused unless every binding companion is used once, and none is missing."""
    used = {*kind.needs, *kind.may, *OPTIONAL}
    for role in kind.needs:
        if module.key(role) is None and not (role == "scale" and module.key("quant_scale")):
            raise Refused(f"its {role.replace('_', ' ')} is missing: the file is incomplete, get it again")
    for role, suffixes in module.roles.items():
        keys = [module.keys[s] for s in suffixes]
        if role in BINDING and role not in used:
            raise Refused(
                f"{keys[0]} has no place in {kind.name} weights: the file mixes two dialects in one layer; {AGAIN}"
            )
        if apart := [s for s in suffixes if s in PAIRED and not module.has(PAIRED[s])]:
            raise Refused(f"{module.keys[apart[0]]} belongs to codes called {PAIRED[apart[0]]!r}, which it has not: "
                          f"the file mixes two dialects in one layer; {AGAIN}")  # fmt: skip
        if role in BINDING and len(keys) > 1:
            raise Refused(f"it has two scales, {' and '.join(keys)}: which one is right cannot be seen; {AGAIN}")
    if (module.key("up") is None) != (module.key("down") is None):
        raise Refused("it has one half of a low-rank part: the file is incomplete, get it again")


def format_of(module: Module, dialect: Dialect, kind: Kind, bytes_are: str | None) -> Format:
    """The format that a module's codes are in; Refused where marker and tensor disagree."""
    dtype = module.dtype()
    if kind.format:
        expected = {MXFP8: ("F8_E4M3", "U8"), NUNCHAKU_AWQ: ("I32",)}.get(kind, ("U8", "I8"))
        if dtype not in expected:
            raise Refused(f"its marker says {kind.name} but its codes are {dtype}: marker and tensor disagree; {AGAIN}")
        return EVERY[kind.format]
    integer = base_of(module) in ("int8", "int8_convrot")
    if integer and dtype != "I8":
        raise Refused(f"its marker says {module.format} but its codes are {dtype}: marker and tensor disagree; {AGAIN}")
    if dtype in BYTES and not (dtype == "I8" and not says_float8(module)):
        return FORMATS[bytes_format(module, bytes_are)]
    if dtype == "I8" and dialect.number not in KNOWN_INT8:
        raise Refused("its INT8 codes have no marker that says whether they are rotated (ConvRot): "
                      "convert it again with comfy_quant markers")  # fmt: skip
    if dtype not in FORMAT_OF:
        raise Refused(f"its codes are {dtype}, in which nobody stores codes: {AGAIN}")
    rotated = dtype == "I8" and module.marker.get("convrot")
    return FORMATS["int8_convrot" if rotated else FORMAT_OF[dtype]]


def says_float8(module: Module) -> bool:
    """Whether the marker calls the bytes of an I8 weight FP8; without one, whether the config does."""
    said = module.format if module.marked else str(module.clues.config.get("quant_algo", ""))
    return said.lower().startswith(("float8", "fp8"))


def bytes_format(module: Module, bytes_are: str | None) -> str:
    # the codes of absmax INT8 end at 127, as fnuz's do
    as_int8 = module.dtype() == "I8" and bytes_are == "float8_e4m3fnuz"
    if found := base_of(module) or (None if as_int8 else bytes_are):
        return found
    raise Refused("its bytes could be several formats and nothing in the file says which: get a file with F8 dtypes")


def rotation(module: Module, kind: Kind, cols: int) -> int:
    """Group of the ConvRot rotation, 0 for none."""
    marker: dict[str, Any] = module.marker
    always = kind in (W4A4, W4A8)
    if not always and not marker.get("convrot"):
        if "convrot_groupsize" in marker and "convrot" not in marker:
            raise Refused(f"its marker gives a ConvRot group but does not say whether its codes are rotated; {AGAIN}")
        return 0
    group = marker.get("convrot_groupsize", marker.get("group_size", 256) if kind is SCALED else 256)
    if not isinstance(group, int) or group < 4 or group & (group - 1) or group.bit_length() % 2 == 0 or cols % group:
        raise Refused(f"its ConvRot group {group!r} is not a power of 4 that divides its {cols} inputs; {AGAIN}")
    return group


def is_quantized(module: Module) -> bool:
    """Whether the module's weight holds codes: FP8 of any shape, or bytes that come with a scale."""
    dtype = module.dtype()
    scaled = any(module.key(r) for r in ("scale", "quant_scale", "group_scale")) or "quantizer" in module.roles
    integer = dtype in BYTES and len(module.shape()) >= 2 and module.has(".weight", ".weight_packed", ".qweight")
    return dtype in FLOAT8 or (dtype in BYTES and scaled) or integer or module.has(".qweight")
