"""Which kernels compute a layer, for how many tokens each, and how often they did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..weights.formats import Format
from ..weights.granularity import Granularity
from ..weights.weight import ARRANGED, QuantizedWeight
from .activations import static_scale
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
        return next((way for way in self.ways if way.kernel.name == kernel), None)

    def arranged(self, weight: QuantizedWeight) -> QuantizedWeight:
        """The weight with its parts also as the kernels of this choice read them, for the device it was made for.

        Kernels that take one weight are of one mind about each part.
        """
        nothing: dict[str, Any] = dict.fromkeys(ARRANGED)
        weight = replace(weight, **nothing)
        if weight.scale.is_meta:
            return weight
        for way in self.ways:
            weight = way.kernel.arranged(weight, self.layer.device)
        return replace(weight, **self.given(weight))

    def given(self, weight: QuantizedWeight) -> dict[str, Any]:
        """What activations are scaled by, where that is not the file's input_scale as it is."""
        if weight.input_scale is None or all(way.activation != "static" for way in self.ways):
            return {}
        scale = static_scale(weight.input_scale, weight.format)
        return {} if scale is weight.input_scale else {"given": scale}

    @property
    def ways(self) -> tuple[Way, ...]:
        return (self.main, *self.others.values())

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
