"""Codes of the last activations, for the next layer that is fed the same: q, k and v, or gate and up.

Only where torch counts a tensor's changes. In inference mode, in which ComfyUI runs models, it does not, and nothing
that is cheaper than quantizing once more proves that memory is as it was: the same object may have been written to by
any operation, one that a custom node adds to a block among them; a mode that sees every operation costs more on the CPU
than a GPU saves; comparing the memory reads what quantizing reads. And a model that is run outside of inference mode
raises where it writes to a tensor of it, as ComfyUI's own buffers for streamed weights are.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import local
from typing import TypeVar
from weakref import ref

import torch
from torch import Tensor
from torch.nn import Parameter

from .storage import contents

Key = tuple[object, ...]
T = TypeVar("T")


class Last(local):
    """What this thread quantized last; gone with the memory that it was made of."""

    def __init__(self) -> None:
        self.kept: tuple[Key, object, object] | None = None

    def keep(self, key: Key, tensor: Tensor, codes: object) -> None:
        # this thread's, whichever frees the activations
        own = self.__dict__
        self.kept = (key, codes, ref(tensor.untyped_storage(), lambda gone: forget(own, gone)))


def forget(own: dict[str, object], gone: object) -> None:
    kept = own.get("kept")
    if isinstance(kept, tuple) and kept[2] is gone:
        own["kept"] = None


LAST = Last()


def once(x: Tensor, how: Key, quantize: Callable[[], T]) -> T:
    """Codes of activations x, or those that quantize made for the layer before; how: what else they depend on.

    Told apart by memory, shape, strides and version: a change through ``.data``, or by a kernel that torch does not
    know of, is not seen.
    """
    key = identity(x)
    if key is None:
        return quantize()
    if LAST.kept is not None and LAST.kept[0] == (key, how):
        return LAST.kept[1]  # type: ignore[return-value]
    # two inputs' codes are never held at once
    LAST.kept = None
    codes = quantize()
    LAST.keep((key, how), x, codes)
    return codes


def identity(x: Tensor) -> Key | None:
    """What tells these activations from others, None where nothing does: inference tensors have no version, and what
    is captured in a graph is computed when that is replayed."""
    if torch.compiler.is_compiling() or x.is_inference() or type(x) not in (Tensor, Parameter):
        return None
    return (*contents(x), x.dtype, x.device, stream) if (stream := stream_of(x)) is not None else None


def stream_of(x: Tensor) -> int | None:
    """The queue that x's device works on now, None where its work is not done in order as it is asked for."""
    if x.device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        return int(torch.cuda.current_stream(x.device).cuda_stream)
    return 0 if x.device.type == "cpu" else None
