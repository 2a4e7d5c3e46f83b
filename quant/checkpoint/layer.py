"""One recognised layer: the static facts of its storage, and its decoding to the canonical weight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..distributed.parts import part
from ..errors import Refused
from ..weights.formats import Format
from ..weights.granularity import Granularity, PerBlock
from ..weights.weight import QuantizedWeight
from . import mma, nunchaku
from .dialects import Dialect
from .kinds import MMA, UNSCALED, Kind
from .module import Module
from .plausibility import plausible_input_scale
from .scale_shape import Fit


@dataclass(frozen=True)
class Layer:
    """Static facts of one quantized weight, all from the header.

    stored: the matrix ``[rows, cols]`` of values as it lies in the file; fits: readings of its scale still open,
    one when decided; transposed: stored as ``[in, out]``; reciprocal: the scale divides; swizzled: block scales lie in
    cuBLAS tiles; rotation: ConvRot group; full: the weight's own shape where it has more than two dimensions;
    unsigned: its activations are quantized shifted by nunchaku.SHIFT, for which its bias makes up.
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
    unsigned: bool = False

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
        if not self.kind.block:
            return rows, cols
        known, bias = self.module.marker.get("orig_shape"), self.module.shape("bias")
        if not (isinstance(known, list) and len(known) == 2):
            known = [bias[0] if len(bias) == 1 else rows, cols]
        cropped = unpadded(cols, known[1])
        # an odd number of packed codes cannot be cut off
        return unpadded(rows, known[0]), cols if cropped % self.format.per_byte else cropped

    @property
    def stored_as(self) -> str:
        """Format and granularity, in words."""
        return f"{self.format.name} {'without scale' if self.plain else self.granularity.name}"

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

    @property
    def transformed(self) -> bool:
        """Whether the weight is more than values times scales."""
        beside = any(self.module.key(role) for role in ("smooth", "smooth_divisor", "up"))
        return beside or self.rotation > 0 or self.kind.offset is not None

    def grid(self) -> Tensor:
        """Float32 scales over the stored matrix, one for each tile."""
        grid = self.fits[0].grid(self.kind.scale(self), self.stored)
        return 1 / grid if self.reciprocal else grid

    def decode(self) -> QuantizedWeight:
        """The weight in canonical form, ``[out, in]``; reads this layer's tensors and no other."""
        rows, cols = self.shape
        codes = self.codes().T.contiguous() if self.transposed else self.codes()
        codes = codes[:rows, : cols // self.format.per_byte].contiguous()
        return replace(self.shell(), codes=self.in_order(codes))

    def shell(self) -> QuantizedWeight:
        """The same without its codes, which are on no device."""
        scale, (rows, cols) = self.by_tile(self.grid()), self.shape
        offset = self.by_tile(self.kind.offset(self)) if self.kind.offset else None
        codes = torch.empty((rows, cols // self.format.per_byte), dtype=self.format.dtype, device="meta")
        up, down = self.low_rank()
        return QuantizedWeight(
            format=self.format,
            codes=codes,
            scale=scale,
            granularity=self.granularity,
            shape=self.shape,
            input_scale=self.input_scale(scale),
            smooth=self.smooth(),
            rotation=self.rotation,
            outer=self.outer(rows),
            codebook=self.optional("codebook"),
            offset=offset,
            up=up,
            down=down,
        )

    def part(self, dim: int, start: int, stop: int) -> QuantizedWeight:
        """Rows (dim 0) or columns (1) [start, stop) of the weight; of codes in order nothing else is read."""
        if self.kind.transcode or self.splits > 1:
            return part(self.decode(), dim, start, stop)
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

    def by_tile(self, grid: Tensor) -> Tensor:
        """Scales over the stored matrix -> those of the weight, ``granularity.scale_shape(shape)``."""
        grid = grid.T if self.transposed else grid
        if grid.numel() > 1:
            grid = grid[: self.scale_shape[0], : self.scale_shape[1]]
        return self.in_order(grid.contiguous().reshape(self.scale_shape))

    def in_order(self, rows: Tensor) -> Tensor:
        """Rows as the model has them; Nunchaku shuffles those of modulations."""
        return nunchaku.apart(rows, self.splits) if self.splits > 1 else rows

    @property
    def splits(self) -> int:
        """Parts of a modulation whose rows lie in turns."""
        return nunchaku.splits_of(self.name, self.kind, self.stored)

    def smooth(self) -> Tensor | None:
        """``[in]`` float32 that multiplies the activations."""
        divisor = self.optional("smooth_divisor")
        if divisor is None:
            return self.optional("smooth")
        return 1 / (mma.by_output(divisor, len(divisor)).flatten() if self.kind in MMA else divisor)

    def low_rank(self) -> tuple[Tensor | None, Tensor | None]:
        """``[out, rank]`` and ``[rank, in]`` of the activations as they come."""
        if self.module.key("up") is None or self.module.key("down") is None:
            return None, None
        up, down = self.tensor("up"), self.tensor("down")
        if self.kind in MMA:
            return mma.low_rank(up), mma.low_rank_down(down)
        if self.module.has(".svdquant_lora_a"):
            # ModelOpt's is one of smoothed activations
            smooth = self.smooth()
            return up, down if smooth is None else down.float() * smooth
        up = up.permute(0, 2, 1).flatten(0, 1) if up.dim() == 3 else up
        return up.contiguous(), down.T.contiguous()

    @property
    def bias_changes(self) -> bool:
        """Whether another bias than the file's goes with the weight as it is decoded."""
        return self.unsigned or self.kind in MMA or self.splits > 1

    def bias(self) -> Tensor:
        """Float32 ``[out]``: the bias that goes with the weight as it is decoded."""
        stored = self.tensor("bias").float()
        found = mma.by_output(stored, len(stored)).flatten() if self.kind in MMA else stored
        found = nunchaku.modulation_bias(found, self.splits) if self.splits > 1 else found
        if not self.unsigned:
            return found
        # the low-rank part sees activations that are not shifted
        rest = replace(self.decode(), up=None, down=None).dequantize()
        return found + nunchaku.SHIFT * rest.sum(1)

    def codes(self) -> Tensor:
        """Codes in the format's own order, ``[rows, cols / format.per_byte]``; raw bytes as the format they hold."""
        return self.viewed(self.tensor("weight")).reshape(self.stored[0], -1)

    def viewed(self, codes: Tensor) -> Tensor:
        """Stored codes, whole tiles of them, as the format has them."""
        codes = self.kind.transcode(codes, self.stored[1]) if self.kind.transcode else codes
        return codes if codes.dtype == self.format.dtype else codes.contiguous().view(self.format.dtype)

    def values(self, codes: Tensor) -> Tensor:
        """Any run of stored codes, of whole tiles, as float32 values before scaling."""
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
