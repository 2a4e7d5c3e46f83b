"""Bytes of the tensors alive while code runs: an independent count of what it holds at a time."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def plain(leaf: object) -> bool:
    return type(leaf) in (torch.Tensor, torch.nn.Parameter)


class LiveBytes(TorchDispatchMode):
    """peak: the most bytes of tensors made inside the ``with`` that were alive at once."""

    def __enter__(self) -> LiveBytes:
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, problem, trace)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_iter((args, kwargs)) if plain(leaf)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_iter(result):
            if plain(leaf) and leaf.untyped_storage()._cdata not in given:
                storage = leaf.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: held for key, held in self.alive.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result
