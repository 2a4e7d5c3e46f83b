"""Sums of what each Linear of a running module is fed; the module computes what it computes without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from threading import Lock

import torch
from torch import Tensor, nn

from .moments import Moments, block_size, features, joined, moments_of, no_moments, stored_bytes
from .store import Facts

# forward of a model, and layer -> the module in its place -> what the model puts out
Call = Callable[[Callable[[], Tensor], Mapping[str, nn.Module]], Tensor]
LAYERS, REST = 8, 15 * 10**8  # bytes of moments: so many times the largest layer in bf16, and so many


def usual_limit(shapes: Iterable[tuple[int, int]]) -> int:
    """Bytes of moments for Linears ``[out, in]``: with half a GB for python and torch, the largest layer times 8 and
    2 GB in all, which converting a model takes too."""
    return LAYERS * max((out * inputs * 2 for out, inputs in shapes), default=0) + REST


class Watch:
    """Moments by layer name, in system memory.

    inputs: layer -> ``in``; limit: bytes that all of them may take, above which they are kept in blocks.
    """

    def __init__(self, inputs: Mapping[str, int], limit: float = inf) -> None:
        self.inputs, self.lock = dict(inputs), Lock()
        self.size = block_size([*inputs.values()], limit)
        self.clear()

    def clear(self) -> None:
        """Forget all, as after it was saved."""
        self.moments: dict[str, Moments] = {}
        self.factors: dict[str, float] = {}
        self.instead: Call | None = None  # of watching, while the model runs for another reason
        self.facts = Facts()

    @property
    def nbytes(self) -> int:
        """What all moments take once every layer was seen."""
        return sum(stored_bytes(count, self.size) for count in self.inputs.values())

    @property
    def blocks(self) -> str:
        """How moments are kept, for reports."""
        whole = sum(count <= self.size for count in self.inputs.values())
        rest = len(self.inputs) - whole
        return f"{whole} layers whole" + (f", {rest} in blocks of {self.size} inputs" if rest else "")

    def see(self, name: str, x: Tensor, conditionings: int = 1) -> None:
        """Add one batch of inputs ``[..., in]`` of a layer; of one that is not watched, nothing."""
        if name not in self.inputs:
            return
        found = moments_of(x, self.size, conditionings=conditionings)
        with self.lock, torch.inference_mode(False):
            # several devices may run the layer at once, and not all of their threads in inference mode
            before = self.moments.get(name) or no_moments(found.inputs, self.size)
            # in place: these are the largest tensors here
            before.squares.add_(found.squares.to(before.squares.device))
            amax = before.amax.maximum(found.amax.to(before.amax.device))
            held_out = None if found.held_out is None else found.held_out.to(before.squares.device)
            self.moments[name] = Moments(
                before.squares, amax, before.rows + found.rows, found.inputs, joined(before.held_out, held_out)
            )

    @contextmanager
    def listening(self, modules: Mapping[str, nn.Module], conditionings: int = 1) -> Iterator[None]:
        """See what modules are fed until the block ends; conditionings: that each image of the batch is there for."""

        def hook(name: str) -> object:
            return lambda module, inputs: self.see(name, features(inputs[0]), conditionings) if inputs else None

        hooks = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]  # type: ignore[arg-type]
        try:
            yield
            self.facts += Facts(steps=1)
        finally:
            for one in hooks:
                one.remove()
