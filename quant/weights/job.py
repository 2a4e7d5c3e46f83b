"""One weight's way to codes: which format, which scales, how they are searched, how values are rounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from ..errors import Refused, one_of
from .formats import Format
from .granularity import Granularity, PerBlock
from .rotation import rotate

# Elements of a slab: its float32 copy stays in the cache, and beside the codes nothing of the weight's size exists.
SLAB = 1 << 19
# On a GPU launches cost more than memory: two slabs for 9216 x 3072, 256 MiB held beside them
GPU_SLAB = 1 << 24


@dataclass(frozen=True)
class Search:
    """Search for the scales with the least error: amax is multiplied by each factor, the best wins scale by scale.

    Four Over Six (Cook et al., arXiv 2512.02010) tries two factors for NVFP4; here they are the format's own.

    importance: mean square ``[in]`` of the activations, which turns the weight's error into the output's; or None.
    factors: those to try, None for the format's own.
    """

    importance: Tensor | None = None
    factors: tuple[float, ...] | None = None

    def of(self, format: Format) -> Search | None:
        """With the factors of a format; None where there is nothing to try."""
        factors = format.factors if self.factors is None else self.factors
        return Search(self.importance, factors) if factors else None

    def tried(self) -> tuple[float, ...]:
        return self.factors or ()


EFFORTS: dict[str, Search | None] = {"best": Search(), "fast": None}  # fast: the scale of amax


def search_for(effort: str) -> Search | None:
    """How scales are found with this effort."""
    return EFFORTS[one_of("effort", effort, EFFORTS)]


def gained(gains: Iterable[float | None]) -> list[str]:
    """A line on what searches gained, in dB; none where nothing was searched."""
    found = [gain for gain in gains if gain is not None]
    return [f"scales searched: {fmean(found):.2f} dB less error of {len(found)} weights in the mean"] if found else []


@dataclass(frozen=True)
class Job:
    """What one weight is quantized to.

    outer: the second-level scale ``[]`` where the format has one; generator: of stochastic rounding, None for nearest.
    """

    format: Format
    granularity: Granularity
    rotation: int = 0
    outer: Tensor | None = None
    search: Search | None = None
    generator: torch.Generator | None = None

    @property
    def searches_outer(self) -> bool:
        """Whether the second-level scale, one for all, is what makes the weight as long as it was."""
        return self.search is not None and self.outer is not None

    def values(self, slab: Tensor) -> Tensor:
        """A slab of the weight, float32, rotated if the format wants it."""
        return rotate(slab.float(), self.rotation) if self.rotation else slab.float()

    def scale(self, amax: Tensor) -> Tensor:
        return self.format.scale_of(amax, self.format.maximum, self.outer)

    def codes(self, values: Tensor, scale: Tensor) -> Tensor:
        """Float32 values ``[rows, in]`` -> codes; all zeros where the scale is zero."""
        safe = torch.where(scale == 0, torch.inf, scale) if self.outer is not None else scale
        scaled = values / self.granularity.expand(safe, matrix_shape(values))
        if self.generator is not None:
            return stochastic_codes(scaled, self.format, self.generator)
        # adding zero makes +0 of -0
        return self.format.codes(scaled.add_(0.0) if safe is not scale else scaled)

    def error(self, values: Tensor, scale: Tensor) -> Tensor:
        """Squared error of each scale's values, weighted by the search's importance; shaped as the scale."""
        shape = matrix_shape(values)
        again = self.format.values(self.codes(values, scale)) * self.granularity.expand(scale, shape)
        squares = again.sub_(values).square_()
        importance = self.search.importance if self.search else None
        if importance is not None:
            squares.mul_(rotated_importance(importance, self.rotation).to(squares))
        return self.granularity.total(squares)

    def unbiased(self, values: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        """The scale of each row with which its codes are as long along values as these are."""
        return scale * longer(values, self.format.values(codes) * scale) if self.search else scale


def longer(values: Tensor, rounded: Tensor) -> Tensor:
    """What makes rounded ``[rows, in]`` as long along values as these are, ``[rows, 1]``.

    Values with the least error are too short, which all tokens' outputs show alike, and so an image more than noise.
    EDEN (Vargaftik et al., arXiv 2108.08842) scales so after a rotation; it is as true without.
    """
    return ratio(values.square().sum(1, keepdim=True), (rounded * values).sum(1, keepdim=True))


def ratio(squares: Tensor, along: Tensor) -> Tensor:
    return torch.where(along > 0, squares / along, torch.ones_like(along))


def matrix_shape(weight: Tensor, name: str = "weight") -> tuple[int, int]:
    if weight.dim() != 2 or not weight.is_floating_point():
        raise Refused(
            f"{name}: is {str(weight.dtype).removeprefix('torch.')} {list(weight.shape)}; only floating-point "
            "matrices [out, in] are quantized: flatten a convolution's after its first dimension."
        )
    return (weight.shape[0], weight.shape[1])


def slabs(weight: Tensor, granularity: Granularity, share: int = 1) -> Iterator[Tensor]:
    """Rows of weight in pieces of about SLAB elements over share, whole blocks each."""
    step = granularity.rows if isinstance(granularity, PerBlock) else 1
    elements = SLAB if weight.device.type == "cpu" else GPU_SLAB
    rows = max(1, elements // share // weight.shape[1] // step) * step
    return iter(weight.split(rows))


def rotated_importance(importance: Tensor, rotation: int) -> Tensor:
    """Mean square of the activations after rotation: a Hadamard matrix mixes a group's equally."""
    if not rotation:
        return importance
    return importance.view(-1, rotation).mean(1).repeat_interleave(rotation)


def generator(seed: int, device: torch.device) -> torch.Generator | None:
    return torch.Generator(device).manual_seed(seed) if seed > 0 else None


def stochastic_codes(scaled: Tensor, format: Format, generator: torch.Generator) -> Tensor:
    """Codes rounded up or down at random, by how near each is; to nearest where a format's steps are unlike."""
    if format.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        import comfy_kitchen

        scaled = scaled.clamp_(-format.maximum, format.maximum)
        noise = torch.randint(0, 256, scaled.shape, dtype=torch.uint8, device=scaled.device, generator=generator)
        return comfy_kitchen.stochastic_rounding_fp8(scaled, noise, format.dtype)
    if not format.dtype.is_floating_point and not format.outer_maximum:
        scaled.add_(torch.rand(scaled.shape, device=scaled.device, generator=generator).sub_(0.5))
    return format.codes(scaled)
