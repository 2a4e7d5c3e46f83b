"""From a module's header facts to a Layer; whatever does not fit together is refused with the reason."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from ..errors import Refused
from ..weights.formats import FORMATS, Format
from ..weights.granularity import PerBlock, PerGroup, PerRow, PerTensor
from .dialects import PLAIN, Dialect, dialect_of
from .keys import BINDING
from .layer import MXFP8, NVFP4, SCALED, UNSCALED, W4A4, W4A8, Kind, Layer
from .module import BYTES, FLOAT8, Module
from .scale_shape import Fit, fits, matrix, padded

FORMAT_OF = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I8": "int8",
}
# dialects whose I8 weights are known not to be rotated, or whose marker says whether they are
KNOWN_INT8 = {"D25", "D15", "D18", "D19", "D26"}
BY_MARKER = {"nvfp4": NVFP4, "convrot_w4a4": W4A4, "asym_w4a8_int8": W4A8}
# roles that any kind may use beside those it needs; a binding role outside refuses the layer
OPTIONAL = ("smooth", "bias_scale", "quant_scale")


def layer_of(module: Module, bytes_are: str | None = None) -> Layer:
    """The layer that a module's header describes; Refused, as a sentence without the layer's name, if none is sure.

    bytes_are: name of the FP8 format that U8 weights of this file hold, by their bytes.
    """
    dialect = known_dialect(module)
    kind = kind_of(module, dialect)
    check_parts(module, kind)
    format = format_of(module, dialect, kind, bytes_are)
    stored, scale = matrix_of(module, kind)
    found = fits_of(module, kind, stored, scale)
    layer = Layer(module, dialect, kind, format, stored, found, module.shape(), rotation=rotation(module, kind))
    if kind in (MXFP8, NVFP4):
        layer = replace(layer, swizzled=swizzled(layer, scale))
    return replace(layer, reciprocal=module.key("scale") is None and module.key("quant_scale") is not None)


def known_dialect(module: Module) -> Dialect:
    dialect = dialect_of(module)
    if dialect is None:
        raise Refused(f"{module.dtype()} codes without any scale are in no known dialect: get a file with its scales")
    if dialect.advice and not (dialect.number == "D26" and module.clues.method == "sdnq"):
        raise Refused(f"{dialect.name} ({dialect.producer}) cannot be read: {dialect.advice}")
    return dialect


def kind_of(module: Module, dialect: Dialect) -> Kind:
    if module.format in BY_MARKER:
        return BY_MARKER[module.format]
    if module.micro or dialect.number in ("D23", "D23b", "D23c"):
        return MXFP8
    return UNSCALED if dialect is PLAIN else SCALED


def check_parts(module: Module, kind: Kind) -> None:
    """Refused unless every binding companion is used once, and none is missing."""
    used = {*kind.needs, *kind.may, *OPTIONAL}
    for role in kind.needs:
        if module.key(role) is None and not (role == "scale" and module.key("quant_scale")):
            raise Refused(f"its {role.replace('_', ' ')} is missing: the file is incomplete, get it again")
    for role, suffixes in module.roles.items():
        keys = [module.keys[s] for s in suffixes]
        if role in BINDING and role not in used:
            raise Refused(f"{keys[0]} has no place in {kind.name} weights: the file mixes two dialects in one layer")
        if role in BINDING and len(keys) > 1:
            raise Refused(f"it has two scales, {' and '.join(keys)}: which one is right cannot be seen")


def format_of(module: Module, dialect: Dialect, kind: Kind, bytes_are: str | None) -> Format:
    dtype = module.dtype()
    if kind.format:
        expected = ("F8_E4M3", "U8") if kind is MXFP8 else ("U8", "I8")
        if dtype not in expected:
            raise Refused(f"its marker says {kind.name} but its codes are {dtype}: marker and tensor disagree")
        return FORMATS[kind.format]
    if dtype in BYTES and not (dtype == "I8" and not says_float8(module)):
        return FORMATS[bytes_format(module, bytes_are)]
    if dtype == "I8" and dialect.number not in KNOWN_INT8:
        raise Refused("its INT8 codes have no marker that says whether they are rotated (ConvRot): "
                      "convert it again with comfy_quant markers")  # fmt: skip
    rotated = dtype == "I8" and module.marker.get("convrot")
    return FORMATS["int8_convrot" if rotated else FORMAT_OF[dtype]]


def says_float8(module: Module) -> bool:
    """Whether marker or config call the bytes of an I8 weight FP8."""
    config = module.clues.config
    return module.format.startswith(("float8", "fp8")) or str(config.get("quant_algo", "")).upper().startswith("FP8")


def bytes_format(module: Module, bytes_are: str | None) -> str:
    if bytes_are:
        return bytes_are
    if module.format in FORMATS:
        return module.format
    raise Refused("its bytes could be several formats and nothing in the file says which: get a file with F8 dtypes")


def matrix_of(module: Module, kind: Kind) -> tuple[tuple[int, int], tuple[int, ...]]:
    shape = module.shape()
    scale = module.shape("group_scale" if kind is W4A8 else "scale") or module.shape("quant_scale")
    if len(shape) < 2 or 0 in shape:
        raise Refused(f"its weight has shape {list(shape)} but scales are known for matrices only")
    stored, scale = matrix(shape, scale)
    return (stored[0], stored[1] * 2) if kind in (NVFP4, W4A4, W4A8) else stored, scale


def fits_of(module: Module, kind: Kind, stored: tuple[int, int], scale: tuple[int, ...]) -> tuple[Fit, ...]:
    """The readings of the scale's shape; Refused when there is none."""
    if kind is UNSCALED:
        return (Fit(PerTensor()),)
    if kind in (MXFP8, NVFP4):
        check_blocks(stored, scale, 32 if kind is MXFP8 else 16)
        return (Fit(PerGroup(1, 32 if kind is MXFP8 else 16)),)
    found = fits(scale, stored, {**module.clues.config, **module.marker})
    if kind in (W4A4, W4A8) or len(module.shape()) > 2:
        found = tuple(f for f in found if not f.flip and isinstance(f.granularity, PerTensor | PerRow | PerBlock))
    if not found:
        raise Refused(f"a scale of shape {list(scale)} fits no granularity of a weight {list(stored)}: "
                      "the scale belongs to another layer, or the weight was reshaped")  # fmt: skip
    return found


def check_blocks(stored: tuple[int, int], scale: tuple[int, ...], size: int) -> None:
    cols = -(-stored[1] // size)
    allowed = ((stored[0], cols), (padded(stored[0], 128), padded(cols, 4)))
    if scale not in allowed:
        raise Refused(f"its block scales have shape {list(scale)} but a weight {list(stored)} needs {list(allowed[0])}"
                      f" in rows or {list(allowed[1])} in tiles")  # fmt: skip


def swizzled(layer: Layer, scale: tuple[int, ...]) -> bool | None:
    """Whether block scales lie in cuBLAS tiles; None where shape and provenance leave it open."""
    cols = -(-layer.stored[1] // (32 if layer.kind is MXFP8 else 16))
    if scale != (padded(layer.stored[0], 128), padded(cols, 4)):
        return False
    if scale != (layer.stored[0], cols) or layer.module.format in ("mxfp8", "hybrid_mxfp8", "nvfp4"):
        return True
    return False if layer.module.clues.method else None


def rotation(module: Module, kind: Kind) -> int:
    """Group of the ConvRot rotation, 0 for none."""
    marker: dict[str, Any] = module.marker
    if kind not in (W4A4, W4A8) and not marker.get("convrot"):
        return 0
    group = marker.get("convrot_groupsize", marker.get("group_size", 256) if kind is SCALED else 256)
    cols = prod(module.shape()[1:]) * (2 if kind in (W4A4, W4A8) else 1)
    if not isinstance(group, int) or group < 4 or group & (group - 1) or group.bit_length() % 2 == 0 or cols % group:
        raise Refused(f"its ConvRot group {group!r} is not a power of 4 that divides its {cols} inputs")
    return group


def is_quantized(module: Module) -> bool:
    """Whether the module's weight holds codes: FP8 of any shape, or bytes that come with a scale."""
    dtype = module.dtype()
    scaled = any(module.key(r) for r in ("scale", "quant_scale", "group_scale")) or "quantizer" in module.roles
    integer = dtype in BYTES and len(module.shape()) >= 2 and module.has(".weight", ".weight_packed", ".qweight")
    return dtype in FLOAT8 or (dtype in BYTES and scaled) or integer or module.has(".qweight")
