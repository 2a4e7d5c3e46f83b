"""What layers of a patch's own hold in ComfyUI's dynamic VRAM, given up when no patcher has them any more.

ComfyUI places each layer in a model's address space once, never takes a place back, and keeps every layer whose memory
it pinned: made for layers that live as long as their model.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from itertools import chain

from comfy.memory_management import TensorGeometry, vram_aligned_size
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from torch.nn import Module

from .plan import tensor_of

LEASES = "scaled_fp8_leases"
SMALL = 16 * 1024  # bytes of a layer that ComfyUI gives no place
Place = tuple[object, int, int]  # vbar, address, bytes

# model -> places that nobody uses; model -> layers that nobody has, but that still stand in it
PLACES: weakref.WeakKeyDictionary[Module, list[Place]] = weakref.WeakKeyDictionary()
LEFT: weakref.WeakKeyDictionary[Module, list[Module]] = weakref.WeakKeyDictionary()
LEASED: weakref.WeakSet[Module] = weakref.WeakSet()


class Lease:
    """Held by a patcher and its clones as long as one of them has these layers."""

    def __init__(self, patched: ModelPatcher, layers: Iterable[Module]) -> None:
        weakref.finalize(self, leave, weakref.ref(patched.model), list(layers)).atexit = False


def lease(patched: ModelPatcher, layers: Iterable[Module]) -> None:
    """Give those layers of a patcher that are new places that others left; have theirs left when nobody has them."""
    if patched.is_dynamic():
        new = place(patched, layers)
        patched.set_attachments(LEASES, (*(patched.get_attachment(LEASES) or ()), Lease(patched, new)))


def place(patched: ModelPatcher, layers: Iterable[Module]) -> list[Module]:
    """Give those layers of a dynamic patcher that are new places that others left; these layers."""
    new = [layer for layer in layers if layer not in LEASED] if patched.is_dynamic() else []
    LEASED.update(new)
    sweep(patched.model)
    for layer in new:
        take_place(patched, layer)
    return new


def follow(layer: Module, clone: ModelPatcher, copy: Module) -> None:
    """Have the copy that a clone's model has of a layer leave it when nobody has the layer any more."""
    if clone.is_dynamic():
        weakref.finalize(layer, leave, weakref.ref(clone.model), [copy]).atexit = False


def leave(model: weakref.ref[Module], layers: list[Module]) -> None:
    root = model()
    if root is not None:
        LEFT.setdefault(root, []).extend(layers)
        sweep(root)


def sweep(root: Module) -> None:
    """Empty the layers that nobody has; those that still stand in the model the next time."""
    standing = set(root.modules())
    left = LEFT.pop(root, [])
    LEFT[root] = [layer for layer in left if layer in standing]
    given = chain.from_iterable(emptied(layer) for layer in left if layer not in standing)
    PLACES[root] = joined([*PLACES.get(root, []), *given])


def joined(places: list[Place]) -> list[Place]:
    """The places, with those that lie side by side in one."""
    found: list[Place] = []
    for vbar, start, size in sorted(places, key=lambda place: (id(place[0]), place[1])):
        if found and found[-1][0] is vbar and found[-1][1] + found[-1][2] == start:
            _, start, before = found.pop()
            size += before
        found.append((vbar, start, size))
    return found


def emptied(layer: Module) -> Iterator[Place]:
    """Take everything but its pinned memory from a layer; its place."""
    for name in ("weight", "bias"):
        layer._parameters[name] = None
    kept = vars(layer)
    if "_v" in kept:
        yield kept["_v"]
    for name in ("_v", "_v_signature", "_prefetch", "held", "lent", "weight_lowvram_function", "bias_lowvram_function"):
        kept.pop(name, None)
    offer_pins(layer)


def offer_pins(layer: Module) -> None:
    """Have ComfyUI give the layer's pinned memory to others before anyone else's."""
    for subset, pin in vars(layer).get("_pins", {}).items():
        entry = pin.get("balancer_entry")
        if entry is not None:
            bucket = vars(layer)["_pin_state"][subset][-1][pin["pin"].nbytes]
            bucket.remove(entry)
            # [minus its priority, ...], sorted, the last one given first
            entry[0] = 1
            bucket.append(entry)


def take_place(patched: ModelPatcher, layer: Module) -> None:
    """Give a layer the smallest place that it fits into, if there is one."""
    size = vram_aligned_size([streamed(layer, part) for part in ("weight", "bias")])
    vbar = patched.model.dynamic_vbars.get(patched.load_device)
    free = PLACES.setdefault(patched.model, [])
    fitting = [place for place in free if place[0] is vbar and place[2] >= size]
    if size <= SMALL or not fitting:
        return
    _, start, held = place = min(fitting, key=lambda found: found[2])
    free.remove(place)
    vars(layer)["_v"] = (vbar, start, size)
    if size < held:
        # sizes are multiples of what ComfyUI aligns places to
        free.append((vbar, start + size, held - size))


def streamed(layer: Module, part: str) -> object:
    """What ComfyUI measures a layer's place by: the tensor, in the dtype it will have there."""
    tensor = tensor_of(layer, part)
    if tensor is None or isinstance(tensor, QuantizedTensor):
        return tensor
    return TensorGeometry(shape=tensor.shape, dtype=getattr(layer, f"{part}_comfy_model_dtype", None) or tensor.dtype)
