"""What layers' errors do to what a model puts out: some layers disturbed all along, each one alone at one call.

Errors of layers add in squares, at one call as in the image. A single call therefore tells the layers' shares, for a
forward each instead of a run each, and one run with disturbed layers tells how large the image's error is for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import isfinite, sqrt
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from ..weights.encode import quantize
from ..weights.formats import FORMATS, Format
from .moments import Moments, features
from .rounding import calibrated

DISTURBED_BY = FORMATS["nvfp4"]  # an error as large as the largest that is planned with
LATE = 0.6  # of a sampling: the call whose shares are nearest to the image's
HELD = 1 << 30  # bytes of all differences that are kept while the whole run is disturbed
FEW = 4  # images, of which none can be told to stand out
OTHER = 4.0  # times the median error: an image that became another one
Rounded = tuple[Tensor, float]


@dataclass
class Shares:
    """One run of a model with some of its layers disturbed.

    rounded: layer -> what is added to its weight ``[out, in]``, and the relative error of the layer's output; layers:
    those whose share is wanted; together: those that are disturbed all along; at: the call, from 0, at which each layer
    is disturbed alone.
    """

    rounded: Callable[[str], Rounded]
    layers: Sequence[str]
    together: Sequence[str]
    at: int
    alone: dict[str, float] = field(default_factory=dict)
    local: dict[str, float] = field(default_factory=dict)
    all: float = 0.0

    def __post_init__(self) -> None:
        self.held = {name: self.rounded(name) for name in self.together}
        self.calls, self.lock = 0, Lock()

    def call(self, forward: Callable[[], Tensor], modules: Mapping[str, Module]) -> Tensor:
        """What the disturbed model puts out; modules: layer -> the module in its place."""
        with added({modules[name]: difference for name, (difference, _) in self.held.items()}):
            found = forward()
        with self.lock:
            here, self.calls = self.calls == self.at, self.calls + 1
        if here:
            self.measure(forward, modules, found)
        return found

    def measure(self, forward: Callable[[], Tensor], modules: Mapping[str, Module], together: Tensor) -> None:
        want = forward()
        self.all = distance(together, want)
        for name in self.layers:
            difference, self.local[name] = self.held.get(name) or self.rounded(name)
            with added({modules[name]: difference}):
                self.alone[name] = distance(forward(), want)

    def factors(self, image: float) -> dict[str, float]:
        """Relative error of the image for each unit of a layer's output error; image: what the run's lost, relative.

        Layers whose disturbance reached nothing, or broke the model, are left out.
        """
        if not (self.all > 0 and isfinite(image / self.all)):
            return {}
        known = ((name, image / self.all * share / max(self.local[name], 1e-12)) for name, share in self.alone.items())
        return {name: factor for name, factor in known if factor > 0 and isfinite(factor)}


def spread(sizes: Mapping[str, int], limit: int = HELD) -> list[str]:
    """Layers, evenly spread, whose sizes in bytes together stay below limit; one at least."""
    names = list(sizes)
    for step in range(1, len(names)):
        chosen = names[step // 2 :: step]
        if sum(sizes[name] for name in chosen) <= limit:
            return chosen
    return names[len(names) // 2 :][:1]


def distance(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


def image_error(got: Tensor, want: Tensor) -> float:
    """Relative error of images ``[images, ...]``, without those that became another one.

    Errors of layers add in squares while they are small. An image that tips over, into another digit say, is as far off
    for a small error as for a large one, and would outweigh all the others.
    """
    each = (got - want).flatten(1).norm(dim=1) / want.flatten(1).norm(dim=1)
    usual = each.median()
    kept = each <= OTHER * usual if len(want) >= FEW and usual > 0 else torch.ones_like(each, dtype=torch.bool)
    return distance(got[kept], want[kept])


##### What disturbs a layer, and how much


def nearest(weight: Tensor, name: str = "weight") -> Tensor:
    """What rounding to nearest adds to a weight ``[out, in]``."""
    return quantize(weight, DISTURBED_BY, name=name).dequantize() - weight


def fed(weight: Tensor, moments: Moments, name: str = "weight", format: Format = DISTURBED_BY) -> Rounded:
    """What rounding by moments adds to a weight ``[out, in]``, and the relative error of the output on images held out.

    To be seen on other images than moments are of. They show a seventh more of it than of as large an error by
    rounding to nearest: what error feedback leaves is what moments do not know.
    """
    found = calibrated(weight, format, format.granularities[0], moments, name)
    return found.weight.dequantize() - weight, found.error


def level(image: float, told: Iterable[float]) -> float:
    """What the image lost with many layers disturbed at once, over the sum of what is told of each, in squares.

    1 where the sum says nothing.
    """
    together = sqrt(sum(error**2 for error in told))
    found = image / together if together else 1.0
    return found if found > 0 and isfinite(found) else 1.0


##### Layers that put out what they would with other weights


@contextmanager
def added(differences: Mapping[Module, Tensor]) -> Iterator[None]:
    """Outputs of modules with those of a difference of their weights added."""
    with ExitStack() as stack:
        for module, difference in differences.items():
            stack.callback(module.register_forward_hook(adding(difference)).remove)
        yield


def adding(difference: Tensor) -> Callable[[Module, Any, Any], Any]:
    def hook(module: Module, inputs: Any, output: Any) -> Any:
        x, y = features(inputs[0]), features(output)
        moved = y + F.linear(x, difference.to(x)).to(y)
        return moved if isinstance(output, Tensor) else output.replace(moved)

    return hook
