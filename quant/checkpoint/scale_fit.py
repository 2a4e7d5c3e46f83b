"""How a layer's scales lie over its codes, by the shapes of both: the granularities that fit, and cuBLAS tiles."""

from __future__ import annotations

from ..errors import AGAIN, Refused
from ..weights.granularity import PerBlock, PerGroup, PerRow, PerTensor
from .kinds import MMA, MXFP4, MXFP8, NUNCHAKU_AWQ, NVFP4, NVFP4_LOW, SVDQUANT_TILES, UNSCALED, W4A4, W4A8, Kind
from .layer import Layer
from .mma import DEPTH, ROWS
from .module import Module
from .scale_shape import Fit, Shape, fits, hinted, matrix, padded

E4M3, POWERS = ("F8_E4M3", "U8"), ("F8_E8M0", "U8")
# what the dtype of block scales may be called, whose bits are read as one format's
BLOCK_SCALES = {NVFP4: E4M3, NVFP4_LOW: E4M3, MXFP8: POWERS, MXFP4: POWERS}
IN_ROWS = ("D24b", "D24d")  # dialects whose block scales lie in rows whatever their number
WHOLE_ROWS = ("int8_tensorwise", "convrot_w4a4")  # formats of markers that know one scale, or one for each output
IN_TILES = ("D24c",)


def matrix_of(module: Module, kind: Kind) -> tuple[tuple[int, int], Shape]:
    """The matrix of codes as it lies in the file, and the shape of its scale for that."""
    shape = module.shape()
    scale = module.shape(scale_role(module, kind))
    if kind is SVDQUANT_TILES:
        return (shape[0] * ROWS, shape[1] * DEPTH), scale
    if len(shape) < 2 or (kind.per_element > 1 and len(shape) > 2):
        raise Refused(f"its weight has shape {list(shape)} but scales are known for matrices only; {AGAIN}")
    if kind is NUNCHAKU_AWQ:
        return (shape[0] * 4, shape[1] * 2), scale
    stored, scale = matrix(shape, scale)
    return (stored[0], stored[1] * kind.per_element), scale


def check_scale_dtype(module: Module, kind: Kind) -> None:
    """Refused for block scales of another dtype than their bits are read as."""
    role, allowed = scale_role(module, kind), BLOCK_SCALES.get(kind, ())
    if allowed and module.dtype(role) not in allowed:
        raise Refused(f"{module.key(role)} is {module.dtype(role)} but block scales of {kind.name} are "
                      f"{' or '.join(allowed)}: a dtype in the header is wrong; {AGAIN}")  # fmt: skip


def scale_role(module: Module, kind: Kind) -> str:
    """The role whose shape is that of the scales."""
    if kind is W4A8:
        return "group_scale"
    return "quant_scale" if module.key("scale") is None else "scale"


def fits_of(module: Module, kind: Kind, stored: tuple[int, int], scale: Shape) -> tuple[Fit, ...]:
    """The readings of the scale's shape; Refused when there is none."""
    if kind is UNSCALED:
        return (Fit(PerTensor()),)
    if kind.block:
        check_blocks(stored, scale, kind.block)
        return (Fit(PerGroup(1, kind.block)),)
    if kind.group or kind is MXFP4:
        check_groups(module, kind, stored)
        return (Fit(PerGroup(1, kind.group or 16)),)
    found = fits(scale, stored, {**module.clues.config, **module.marker})
    if kind in (W4A4, W4A8) or len(module.shape()) > 2:
        found = tuple(f for f in found if not f.flip and isinstance(f.granularity, PerTensor | PerRow | PerBlock))
    found = tuple(f for f in found if as_marked(f, module))
    if not found:
        raise Refused(f"a scale of shape {list(scale)} fits no granularity of a weight {list(stored)}: "
                      f"the scale belongs to another layer, or the weight was reshaped; {AGAIN}")  # fmt: skip
    return found


def as_marked(fit: Fit, module: Module) -> bool:
    """Whether scales lie over tiles of the kind and size that the marker says."""
    if module.format in WHOLE_ROWS and not isinstance(fit.granularity, PerTensor | PerRow):
        return False
    size = hinted(module.marker)
    granularity = fit.granularity
    if not size or not isinstance(granularity, PerBlock):
        return True
    return granularity.cols == size[0][1] and granularity.rows in (1, size[0][0])


def check_groups(module: Module, kind: Kind, stored: tuple[int, int]) -> None:
    """Refused unless the scales, zero points and low-rank parts have one of the shapes that such a weight needs."""
    rows, cols = stored
    if cols % (2 * DEPTH if kind in MMA else kind.group or 32) or (kind.tile > 4 and rows % kind.tile):
        raise Refused(f"its weight {list(stored)} is not of whole groups: the file is damaged, get it again")
    groups, transposed = cols // (kind.group or 32), (cols // (kind.group or 32), rows)
    wanted = {
        MXFP4: ((rows, groups),), SVDQUANT_TILES: (transposed, (rows // ROWS, groups, ROWS)),
        NUNCHAKU_AWQ: (transposed, (padded(groups, 16), rows)),
    }.get(kind, (transposed,))  # fmt: skip
    for role in ("scale", "offset"):
        if module.key(role) and module.shape(role) not in wanted:
            raise Refused(f"its {role} has shape {list(module.shape(role))} but a weight {list(stored)} needs "
                          f"{list(wanted[0])}; {AGAIN}")  # fmt: skip


def check_blocks(stored: tuple[int, int], scale: tuple[int, ...], size: int) -> None:
    cols = -(-stored[1] // size)
    allowed = ((stored[0], cols), (padded(stored[0], 128), padded(cols, 4)))
    if scale not in allowed:
        raise Refused(f"its block scales have shape {list(scale)} but a weight {list(stored)} needs {list(allowed[0])}"
                      f" in rows or {list(allowed[1])} in tiles; {AGAIN}")  # fmt: skip


def swizzled(layer: Layer, scale: tuple[int, ...]) -> bool | None:
    """Whether block scales lie in cuBLAS tiles; None where shape and provenance leave it open."""
    cols = -(-layer.stored[1] // layer.kind.block)
    if scale != (padded(layer.stored[0], 128), padded(cols, 4)):
        return False
    if layer.dialect.number in IN_ROWS:
        if scale != (layer.stored[0], cols):
            raise Refused(f"its block scales {list(scale)} are filled up as tiles are, and lie in rows in "
                          f"{layer.dialect.name}: a marker is missing; {AGAIN}")  # fmt: skip
        return False
    if scale != (layer.stored[0], cols) or layer.dialect.marked or layer.dialect.number in IN_TILES:
        return True
    return False if layer.module.clues.method else None
