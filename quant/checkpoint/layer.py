"""One recognised layer: the static facts of its storage, and its decoding to the canonical weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..distributed.parts import part
from ..errors import Refused
from ..weights.formats import Format
from ..weights.granularity import Granularity, PerBlock
from ..weights.weight import QuantizedWeight
from .dialects import Dialect
from .module import Module
from .plausibility import plausible_input_scale
from .scale_shape import Fit, padded


@dataclass(frozen=True)
class Kind:
    """How scales are stored: the roles it needs beside the weight and may have, and the function that reads them.

    format: the one format it is for, "" where the dtype says; outer: reads the scale one level above.
    """

    name: str
    needs: tuple[str, ...]
    scale: Callable[[Layer], Tensor]
    format: str = ""
    outer: Callable[[Layer], Tensor] | None = None
    may: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """Static facts of one quantized weight, all from the header.

    stored: the matrix ``[rows, cols]`` of values as it lies in the file; fits: readings of its scale still open,
    one when decided; transposed: stored as ``[in, out]``; reciprocal: the scale divides; swizzled: block scales lie in
    cuBLAS tiles; rotation: ConvRot group; full: the weight's own shape where it has more than two dimensions.
    """

    module: Module
    dialect: Dialect
    kind: Kind
    format: Format
    stored: tuple[int, int]
    fits: tuple[Fit, ...]
    full: tuple[int, ...]
    transposed: bool = False
    reciprocal: bool = False
    swizzled: bool | None = False
    rotation: int = 0

    @property
    def name(self) -> str:
        return self.module.name

    @property
    def granularity(self) -> Granularity:
        found = self.fits[0].granularity
        # a block that is not square turns with its weight
        if type(found) is PerBlock and self.fits[0].flip != self.transposed:
            return PerBlock(found.cols, found.rows)
        return found

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Logical ``[out, in]``, without padding."""
        rows, cols = self.stored[::-1] if self.transposed else self.stored
        if self.kind not in (MXFP8, NVFP4):
            return rows, cols
        known, bias = self.module.marker.get("orig_shape"), self.module.shape("bias")
        if not (isinstance(known, list) and len(known) == 2):
            known = [bias[0] if len(bias) == 1 else rows, cols]
        cropped = unpadded(cols, known[1])
        # an odd number of packed codes cannot be cut off
        return unpadded(rows, known[0]), cols if cropped % self.format.per_byte else cropped

    @property
    def inputs(self) -> int:
        return self.shape[1]

    @property
    def weight_key(self) -> str:
        """The key that the weight has in a model without quantization."""
        key = self.module.key("weight")
        return self.name if key == self.name else f"{self.name}.weight" if self.name else "weight"

    @property
    def full_shape(self) -> tuple[int, ...]:
        return self.full if len(self.full) > 2 else self.shape

    @property
    def scale_shape(self) -> tuple[int, ...]:
        return self.granularity.scale_shape(self.shape)

    @property
    def plain(self) -> bool:
        return self.kind is UNSCALED

    def grid(self) -> Tensor:
        """Float32 scales over the stored matrix, one for each tile."""
        grid = self.fits[0].grid(self.kind.scale(self), self.stored)
        return 1 / grid if self.reciprocal else grid

    def decode(self) -> QuantizedWeight:
        """The weight in canonical form, ``[out, in]``; reads this layer's tensors and no other."""
        codes = self.codes().T if self.transposed else self.codes()
        rows, cols = self.shape
        return replace(self.shell(), codes=codes[:rows, : cols // self.format.per_byte].contiguous())

    def shell(self) -> QuantizedWeight:
        """The same without its codes, which are not read and lie on no device."""
        grid = self.grid().T if self.transposed else self.grid()
        if grid.numel() > 1:
            grid = grid[: self.scale_shape[0], : self.scale_shape[1]]
        scale = grid.contiguous().reshape(self.scale_shape)
        rows, cols = self.shape
        codes = torch.empty((rows, cols // self.format.per_byte), dtype=self.format.dtype, device="meta")
        return QuantizedWeight(
            format=self.format,
            codes=codes,
            scale=scale,
            granularity=self.granularity,
            shape=self.shape,
            input_scale=self.input_scale(scale),
            smooth=self.optional("smooth"),
            rotation=self.rotation,
            outer=self.outer(rows),
            codebook=self.optional("codebook"),
        )

    def part(self, dim: int, start: int, stop: int) -> QuantizedWeight:
        """Rows (dim 0) or columns (1) [start, stop) of the weight; of the codes nothing else is read."""
        found = part(self.shell(), dim, start, stop)
        rows, columns = (slice(0, size) for size in found.codes.shape)
        per = self.format.per_byte if dim else 1
        if dim:
            columns = slice(start // per, start // per + found.codes.shape[1])
        else:
            rows = slice(start, stop)
        codes = self.stored_codes(columns, rows).T if self.transposed else self.stored_codes(rows, columns)
        return replace(found, codes=codes.contiguous())

    def stored_codes(self, rows: slice, columns: slice) -> Tensor:
        """Some codes as they lie in the file: whole rows at once, pieces of rows one by one."""
        key, width = str(self.module.key("weight")), self.stored[1] // self.format.per_byte
        if columns == slice(0, width):
            return self.viewed(self.module.source.piece(key, rows.start * width, rows.stop * width)).view(-1, width)
        starts = (row * width for row in range(rows.start, rows.stop))
        read = [self.module.source.piece(key, at + columns.start, at + columns.stop) for at in starts]
        return self.viewed(torch.stack(read))

    def codes(self) -> Tensor:
        """Codes as they lie in the file, ``[rows, cols / format.per_byte]``; raw bytes as the format they hold."""
        return self.viewed(self.tensor("weight")).reshape(self.stored[0], -1)

    def viewed(self, codes: Tensor) -> Tensor:
        return codes if codes.dtype == self.format.dtype else codes.contiguous().view(self.format.dtype)

    def values(self, codes: Tensor) -> Tensor:
        """Any run of codes as float32 values before scaling."""
        return self.format.values(self.viewed(codes), self.optional("codebook"))

    def tensor(self, role: str) -> Tensor:
        key = self.module.key(role)
        if key is None:
            raise Refused(f"{self.name}: its {role} is missing; the file is incomplete, get it again.")
        return self.module.source.tensor(key)

    def input_scale(self, weight_scale: Tensor) -> Tensor | None:
        """The calibrated activation scale; None where there is none, or a placeholder, or one of another meaning."""
        key = self.module.key("input_scale")
        # flux-fp8-api's is a reciprocal for another format
        if key is None or self.dialect.number == "D20" or self.plain:
            return None
        scale = self.module.source.tensor(key).float()
        return scale.reshape(()) if plausible_input_scale(scale, weight_scale, self.format.maximum) else None

    def optional(self, role: str) -> Tensor | None:
        """A companion vector as float32, None where there is none."""
        key = self.module.key(role)
        return None if key is None else self.module.source.tensor(key).float().reshape(-1)

    def outer(self, rows: int) -> Tensor | None:
        found = self.kind.outer(self) if self.kind.outer else None
        return found if found is None or found.dim() == 0 else found[:rows]


def unpadded(size: int, known: object) -> int:
    """The known size where it is the stored one before padding to blocks and pairs."""
    return known if isinstance(known, int) and 0 < known <= size < known + 32 else size


def as_e4m3(scale: Tensor) -> Tensor:
    return scale.view(torch.float8_e4m3fn) if scale.dtype == torch.uint8 else scale


def as_float(scale: Tensor) -> Tensor:
    """Any scale as float32; bytes are exponents, 2^(e - 127)."""
    return scale.view(torch.float8_e8m0fnu).float() if scale.dtype == torch.uint8 else scale.float()


def unit(layer: Layer) -> Tensor:
    return torch.ones(())


def own_scale(layer: Layer) -> Tensor:
    role = "quant_scale" if layer.module.key("scale") is None else "scale"
    return as_float(layer.tensor(role))


def grouped_scale(layer: Layer) -> Tensor:
    """W4A8: each group's e4m3 scale times its output's."""
    return as_e4m3(layer.tensor("group_scale")).float() * layer.tensor("channel_scale").float().view(-1, 1)


def tensor_scale(layer: Layer) -> Tensor:
    return layer.tensor("global_scale").float().reshape(())


def output_scale(layer: Layer) -> Tensor:
    return layer.tensor("channel_scale").float().view(-1, 1)


def tiles(layer: Layer, scale: Tensor, cols: int) -> Tensor:
    """Block scales ``[rows, cols]`` in order; ComfyUI stores them in cuBLAS tiles of 128 x 4."""
    rows = layer.stored[0]
    if not layer.swizzled:
        return scale.reshape(-1, scale.shape[-1])[:rows, :cols]
    tiled = scale.reshape(padded(rows, 128) // 128, padded(cols, 4) // 4, 32, 4, 4)
    return tiled.permute(0, 3, 2, 1, 4).reshape(padded(rows, 128), -1)[:rows, :cols]


def micro_scale(layer: Layer) -> Tensor:
    scale = layer.tensor("scale").view(torch.uint8)
    return as_float(tiles(layer, scale, -(-layer.stored[1] // 32)))


def nested_scale(layer: Layer) -> Tensor:
    """NVFP4: each block's e4m3 scale times the tensor's."""
    block = tiles(layer, layer.tensor("scale").view(torch.uint8), layer.stored[1] // 16)
    return as_e4m3(block.contiguous()).float() * layer.tensor("global_scale").float()


UNSCALED = Kind("plain", (), unit)
SCALED = Kind("scaled", ("scale",), own_scale)
MXFP8 = Kind("mxfp8", ("scale",), micro_scale, "mxfp8")
NVFP4 = Kind("nvfp4", ("scale", "global_scale"), nested_scale, "nvfp4", tensor_scale)
W4A4 = Kind("w4a4", ("scale",), own_scale, "int4_convrot")
W4A8 = Kind("w4a8", ("group_scale", "channel_scale"), grouped_scale, "int4", output_scale, ("codebook",))
