"""Whether weights lie as ``[out, in]`` or transposed, ``[in, out]``, and which way their scales lie over them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import AGAIN, Refused
from ..weights.granularity import PerBlock, PerGroup, PerRow
from .checks import LARGEST, READ
from .kinds import NVFP4, NVFP4_LOW, SCALED
from .layer import Layer
from .plausibility import block_std, scaled_axis, smoother
from .scale_shape import Fit

# names that mean more outputs than inputs in nearly every architecture, and the reverse. Left out: the
# numbered parts of modulations, which are pairs with a narrow middle in Cosmos and one wide layer elsewhere
EXPANDS = re.compile(r"(qkv|qkv_proj|linear1|fc1|c_fc2|up_proj|gate_proj|gate_up_proj|mlp\.0|ffn\.0|net\.0\.proj"
                     r"|wi(_\d)?|\w*modulation\w*(\.lin(ear)?)?|\w*_mod\.(1|lin)"
                     r"|[xc]_embedder|img_in|txt_in)$")  # fmt: skip
CONTRACTS = re.compile(
    r"(linear2|fc2|down_proj|(?<!modulation_)mlp\.2|ffn\.2|net\.2|DenseReluDense\.wo|final_layer\.linear)$"
)
Evidence = Callable[[], bool | None]  # transposed or not, None for unknown
AGREED = 0.75  # part of the names that must agree; a few are always unusual


def nothing() -> bool | None:
    """Evidence where there is none."""
    return None


def settle(layers: Sequence[Layer], architecture: Evidence = nothing) -> tuple[list[Layer], dict[str, str]]:
    """Layers of one dialect with every open reading decided, and the reasons of those that cannot be.

    architecture: whether the model that the file is for needs them transposed; asked where the file itself does not.
    """
    refused: dict[str, str] = {}
    reading = file_transposed(layers, architecture)
    settled = []
    for layer in layers:
        try:
            settled.append(decided(layer, reading, layers))
        except Refused as reason:
            refused[layer.name] = reason.by_name
    return settled, refused


##### The weights


@dataclass(frozen=True)
class Reading:
    """Whether a file's weights are transposed; None, with the doubt, where nothing shows it."""

    transposed: bool | None
    doubt: str = ""


def file_transposed(layers: Sequence[Layer], architecture: Evidence = nothing) -> Reading:
    """What the file's layers show together.

    ComfyUI's markers define it; biases and row scales measure it; names are only a hint, and one that must agree.
    """
    if any(marked(layer) for layer in layers):
        return Reading(False)
    strong = [vote for vote in map(shape_vote, layers) if vote is not None]
    if strong:
        return Reading(sum(strong) * 2 > len(strong))
    known = architecture()
    if known is not None:
        return Reading(known)
    weak = [vote for vote in map(name_vote, layers) if vote is not None]
    if weak and max(sum(weak), len(weak) - sum(weak)) >= AGREED * len(weak):
        return Reading(sum(weak) * 2 > len(weak))
    return by_codes(layers)


def marked(layer: Layer) -> bool:
    """Whether a marker of ComfyUI's, which stores ``[out, in]`` only, describes the layer."""
    module = layer.module
    return bool(module.format) or module.clues.in_legacy_scope(module.name)


def by_codes(layers: Sequence[Layer]) -> Reading:
    """The same from the codes of square layers, whose scales show the axis they run along."""
    axes = {axis for axis in map(axis_of, readable(layers, PerRow)) if axis}
    if len(axes) == 1:
        return Reading(axes == {"columns"})
    if any(layer.stored[0] != layer.stored[1] for layer in layers):
        # transposed layers that are not square cannot be mistaken: they do not fit the model
        return Reading(False)
    return Reading(None, "all its weights are square, so nothing shows whether they lie as [out, in] or [in, out]")


def shape_vote(layer: Layer) -> bool | None:
    """Transposed or not by a bias or a row scale as long as one side only."""
    rows, cols = layer.stored
    if rows == cols or layer.kind is not SCALED and not layer.plain:
        return None
    bias = layer.module.shape("bias")
    if len(bias) == 1 and bias[0] in (rows, cols):
        return bias[0] == cols
    flips = {f.flip for f in layer.fits}
    return flips.pop() if along_rows(layer) and len(flips) == 1 else None


def name_vote(layer: Layer) -> bool | None:
    rows, cols = layer.stored
    if rows == cols or layer.kind.block or layer.kind.group or len(layer.full) > 2:
        return None
    if EXPANDS.search(layer.name):
        return rows < cols
    return rows > cols if CONTRACTS.search(layer.name) else None


def along_rows(layer: Layer) -> bool:
    """Whether the scales belong to single outputs, so that the axis they run along is out."""
    return all(isinstance(f.granularity, PerRow | PerGroup) for f in layer.fits)


##### One layer


def decided(layer: Layer, reading: Reading, siblings: Sequence[Layer]) -> Layer:
    """The layer with one fit and its orientation; Refused when its own evidence contradicts the file's, or is none."""
    if layer.kind.block:
        return replace(layer, swizzled=in_tiles(layer))
    if layer.kind is not SCALED and not layer.plain or len(layer.full) > 2:
        return replace(layer, fits=layer.fits[:1])
    bias = layer.module.shape("bias")
    if len(bias) == 1 and bias[0] not in layer.stored:
        raise Refused(f"its bias of {bias[0]} values fits no side of its weight {list(layer.stored)}; {AGAIN}")
    vote, known = shape_vote(layer), reading.transposed
    if vote is not None and known is not None and vote != known:
        raise Refused(f"its shape {list(layer.stored)} says {order(vote)}, "
                      f"its marker or the rest of the file {order(known)}; {AGAIN}")  # fmt: skip
    if known is None and layer.dialect.transposed and not layer.plain:
        raise Refused(f"{reading.doubt}: get a file with ComfyUI's markers")
    transposed = bool(known)
    return replace(layer, transposed=transposed, fits=(fit_of(layer, transposed, siblings),))


def fit_of(layer: Layer, transposed: bool, siblings: Sequence[Layer]) -> Fit:
    """The one fit that goes with the weight's orientation."""
    if along_rows(layer):
        suited = [f for f in layer.fits if f.flip == transposed]
        if not suited:
            raise Refused(f"its scale runs along in, not out, of a weight that lies as {order(transposed)}; {AGAIN}")
        check_axis(layer, transposed)
        return suited[0]
    if not isinstance(layer.fits[0].granularity, PerBlock):
        return layer.fits[0]
    flip = grid_flipped(siblings) if len(layer.fits) > 1 else layer.fits[0].flip
    if flip is None and transposed:
        raise Refused(f"its weight is square and transposed, and nothing shows which way its block scales lie; {AGAIN}")
    if flip and not transposed:
        raise Refused(f"its block scales lie as those of [in, out] do, but its weight lies as [out, in]; {AGAIN}")
    return next(f for f in layer.fits if f.flip == bool(flip))


def order(transposed: bool) -> str:
    return "[in, out]" if transposed else "[out, in]"


def check_axis(layer: Layer, transposed: bool) -> None:
    """Refused when the codes of a square layer show plainly that its scales run along the other axis."""
    if layer.stored[0] != layer.stored[1] or not isinstance(layer.fits[0].granularity, PerRow):
        return
    if axis_of(layer) == ("rows" if transposed else "columns"):
        raise Refused(
            f"its top codes show scales along the other axis than a weight that lies as {order(transposed)}; {AGAIN}"
        )


##### What only the codes show


def readable(layers: Iterable[Layer], granularity: type) -> list[Layer]:
    """The first few square layers of a granularity that are small enough to be read whole."""
    square = (v for v in layers if v.stored[0] == v.stored[1] and type(v.fits[0].granularity) is granularity)
    return [v for v in square if v.stored[0] * v.stored[1] <= LARGEST][:READ]


def axis_of(layer: Layer) -> str:
    return scaled_axis(layer.codes())


def first_rows(layer: Layer, count: int) -> Tensor:
    """Unscaled values ``[count, cols]`` of the stored matrix's first rows."""
    rows = min(layer.stored[0], count)
    piece = layer.module.source.piece(layer.module.key("weight") or "", 0, rows * layer.stored[1])
    return layer.values(piece).view(rows, -1)


def grid_flipped(layers: Sequence[Layer]) -> bool | None:
    """Whether block scales lie over the transposed weight: by shape if some layer shows it, else by smoothness."""
    blocks = [v for v in layers if type(v.fits[0].granularity) is PerBlock]
    shown = {v.fits[0].flip for v in blocks if len(v.fits) == 1 and v.stored[0] != v.stored[1]}
    if len(shown) == 1:
        return shown.pop()
    found = {reading for reading in map(smoother_grid, readable(blocks, PerBlock)) if reading}
    return found == {"second"} if len(found) == 1 else None


def smoother_grid(layer: Layer) -> str:
    straight = replace(layer, fits=layer.fits[:1])
    tile = straight.fits[0].tile(layer.stored)
    grid = straight.grid()
    return smoother(block_std(first_rows(layer, 1024), *tile), grid, grid.T)


def in_tiles(layer: Layer) -> bool:
    """Whether block scales lie in cuBLAS tiles; the codes decide where shapes and marker do not, and are heard."""
    if layer.swizzled is False and layer.module.shape("scale")[0] % 128 or layer.kind in (NVFP4, NVFP4_LOW):
        return bool(layer.swizzled)
    reading = tile_reading(layer)
    if layer.swizzled is None and reading is None:
        raise Refused("nothing shows whether its block scales lie in rows or in cuBLAS tiles: "
                      "get a file with ComfyUI's markers or its config.json")  # fmt: skip
    if None not in (layer.swizzled, reading) and reading != layer.swizzled and same_shape(layer):
        raise Refused(f"its codes show that its block scales are not ordered as its marker or config says; {AGAIN}")
    return bool(reading if layer.swizzled is None else layer.swizzled)


def same_shape(layer: Layer) -> bool:
    cols = -(-layer.stored[1] // 32)
    return layer.module.shape("scale") == (layer.stored[0], cols) and layer.stored[0] % 128 == 0 and cols % 4 == 0


def tile_reading(layer: Layer) -> bool | None:
    """Tiles or rows by the smoothness of the first rows, None for undecided or not comparable."""
    if not same_shape(layer):
        return None
    spread = block_std(first_rows(layer, 256), 1, 32)
    tiled, straight = (replace(layer, swizzled=s).grid().clamp(min=torch.finfo().tiny) for s in (True, False))
    return {"first": True, "second": False, "": None}[smoother(spread, tiled, straight)]
