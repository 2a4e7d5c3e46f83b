"""Which kernels compute a layer, for how many tokens each, and how often they did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..weights.formats import Format
from ..weights.granularity import Granularity
from .registry import Kernel
from .rules import Workload
from .speed import nearest


@dataclass(frozen=True)
class Way:
    """A kernel and why it is the one. activation: how activations are scaled, None where they are not; quantizer: who
    does it."""

    kernel: Kernel
    reason: str
    activation: str | None
    quantizer: str = "eager"


@dataclass(eq=False)
class Choice:
    """The kernels of one layer, or why not better ones.

    main: for most tokens, and in compiled graphs; others: for those of speed.TOKENS where another one is faster;
    refused: the kernels that are not taken, each with its reason; compute: what was asked for; calls: kernel name ->
    how often it ran, here and elsewhere; elsewhere: the choices for other devices and dtypes of activations that the
    layer has met. Changes where a kernel raises: the next one takes its place.
    """

    main: Way
    refused: dict[str, str]
    layer: Workload
    compute: str = "auto"
    others: dict[int, Way] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    elsewhere: dict[tuple[torch.device, torch.dtype], Choice] = field(default_factory=dict, repr=False)

    def __deepcopy__(self, memo: dict[int, object]) -> Choice:
        """Itself: torch.compile guards a weight by comparing its parts with a copy of them."""
        return self

    def way(self, tokens: int) -> Way:
        """How so many tokens are computed."""
        return self.others.get(nearest(tokens), self.main) if self.others else self.main

    def named(self, kernel: str) -> Way | None:
        """The way by the kernel of that name, None where it is not among them."""
        return next((way for way in (self.main, *self.others.values()) if way.kernel.name == kernel), None)

    def arranged(self, scale: Tensor) -> Tensor | None:
        """A weight's scales, in the bytes that hold them, as the kernels of this choice that multiply codes read them.

        None where they read them as they are. Kernels that take one weight are of one mind here.
        """
        kernels = (way.kernel for way in (self.main, *self.others.values()))
        arrange = next((kernel.arrange for kernel in kernels if kernel.arrange), None)
        return None if arrange is None or scale.is_meta else arrange(scale, self.shape)

    def count(self, name: str) -> None:
        """Note that a kernel ran; not inside a compiled graph, which would be compiled anew for each count."""
        if not torch.compiler.is_compiling():
            self.calls[name] += 1

    @property
    def kernel(self) -> Kernel:
        return self.main.kernel

    @property
    def reason(self) -> str:
        return self.main.reason

    @property
    def activation(self) -> str | None:
        return self.main.activation

    @property
    def quantizer(self) -> str:
        return self.main.quantizer

    @property
    def works_in_fp8(self) -> bool:
        """Whether FP8 codes themselves are multiplied."""
        return self.kernel.family == "scaled_mm"

    @property
    def format(self) -> Format:
        return self.layer.format

    @property
    def granularity(self) -> Granularity:
        return self.layer.granularity

    @property
    def shape(self) -> tuple[int, int]:
        return self.layer.shape
