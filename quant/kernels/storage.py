"""What is known of a tensor's contents, for as long as they are there and as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import ref

import torch
from torch import Tensor, UntypedStorage
from torch.multiprocessing.reductions import StorageWeakRef

T = TypeVar("T")
MOST = 4096


def contents(tensor: Tensor) -> tuple[object, ...]:
    """Equal for two views of the same memory, unchanged as far as is known: inference tensors have no version."""
    version = 0 if tensor.is_inference() else tensor._version
    return (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), version)


class Memo(Generic[T]):
    """Answers about tensors. The weak reference keeps a storage's identity from being given to another one."""

    def __init__(self) -> None:
        self.known: dict[tuple[object, ...], tuple[StorageWeakRef, T]] = {}

    def of(self, tensor: Tensor, ask: Callable[[], T]) -> T:
        """The answer for this tensor, asked for once."""
        key = contents(tensor)
        if key not in self.known:
            if len(self.known) >= MOST:
                self.forget()
            self.known[key] = (StorageWeakRef(tensor.untyped_storage()), ask())
        return self.known[key][1]

    def forget(self) -> None:
        """Drop what was known of tensors that are gone; of all where none is."""
        alive = {key: pair for key, pair in self.known.items() if not pair[0].expired()}
        self.known = alive if len(alive) < MOST else {}


class Derived:
    """Tensors made of others, as long as those are there and as they were; of inference tensors, made each time."""

    def __init__(self) -> None:
        self.known: dict[tuple[object, ...], tuple[ref[UntypedStorage], Tensor]] = {}

    def of(self, tensor: Tensor, how: object, make: Callable[[], Tensor]) -> Tensor:
        """What make gives for this tensor, made once; how: which of several things that are made of it."""
        if torch.compiler.is_compiling() or tensor.is_inference():
            return make()
        key = (how, *contents(tensor))
        if key not in self.known:
            self.known[key] = (ref(tensor.untyped_storage(), lambda _: self.known.pop(key, None)), make())
        return self.known[key][1]
