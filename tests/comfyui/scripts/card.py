"""ComfyUI's dynamic VRAM on a CPU: its own code around a stand-in for comfy-aimdo's allocator, on a device cpu:1.

torch makes plain CPU tensors of "cpu:1" and ComfyUI tells that device from "cpu", so all of its streaming runs. Fresh
and evicted memory is filled with 0xFF, a NaN in every format, so that nothing reads right by chance.
"""

from __future__ import annotations

from array import array

import comfy.cli_args
import comfy.memory_management
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import comfy_aimdo.host_buffer
import comfy_aimdo.model_vbar
import comfy_aimdo.torch
import torch
from safetensors import safe_open

CARD = torch.device("cpu", 1)
PAGE = 1 << 16


@torch.inference_mode(False)
def unwritten(size: int) -> torch.Tensor:
    """Memory that threads outside of inference mode, as those of several devices are, may write too."""
    return torch.full((size,), 0xFF, dtype=torch.uint8)


class VBar:
    """The card's memory for one model: addresses are offsets, pages are evicted by hand."""

    def __init__(self, size: int, device: int) -> None:
        self.max_size, self.offset = int(size), 0
        self.memory = unwritten(self.max_size)
        self.pages = array("I", [0] * (self.max_size // PAGE + 1))

    def prioritize(self) -> None:
        pass

    def alloc(self, size: int) -> tuple[VBar, int, int]:
        self.offset = (self.offset + 511) & ~511
        if self.offset + size > self.max_size:
            raise MemoryError("VBAR OOM")
        self.offset += size
        return (self, self.offset - size, size)

    def signature(self, start: int, size: int) -> array:
        return self.pages[start // PAGE : (start + size) // PAGE + 1]

    def loaded_size(self) -> int:
        return 0

    def free_memory(self, size: float) -> int:
        """Evict everything."""
        self.memory.fill_(0xFF)
        self.pages = array("I", [page + 1 for page in self.pages])
        return self.max_size


class HostBuffer:
    """Pinned memory that grows and is cut at its end."""

    def __init__(self, size: int, prewarm: int = 0, max_grow_size: int = 0) -> None:
        self.size, self.memory = size, unwritten(max(size, int(max_grow_size)))

    def extend(self, size: int, reallocate: bool = False, register: bool = True) -> int:
        if self.size + size > len(self.memory):
            raise RuntimeError("HostBuffer.extend failed")
        self.size += size
        return 1

    def truncate(self, size: int, do_unregister: bool = True) -> None:
        self.size = size
        self.memory[size:].fill_(0xFF)


class Cudart:
    """Pinning that always works."""

    def cudaHostRegister(self, *pin: int) -> int:
        return 0

    def cudaHostUnregister(self, *pin: int) -> int:
        return 0


def read(path: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """As core's own reader, which maps the file by comfy-aimdo."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.offset_keys()}, file.metadata() or {}


def insert() -> None:
    """From here on ComfyUI has one card, with dynamic VRAM as on NVIDIA; loads models there."""
    management, bar = comfy.model_management, comfy_aimdo.model_vbar
    comfy.cli_args.args.cpu = False
    management.get_torch_device = lambda: CARD
    management.is_device_cpu = lambda device: device == torch.device("cpu")
    management.vram_state = management.VRAMState.NORMAL_VRAM
    management.pinned_hostbuf_size = lambda size: 4 * size
    management.MAX_PINNED_MEMORY = 1 << 40
    comfy.memory_management.aimdo_enabled = True
    comfy.utils.load_safetensors = read
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    bar.ModelVBAR = VBar
    bar.vbar_fault = lambda place: place[0].signature(*place[1:])
    bar.vbar_unpin = lambda place: None
    bar.vbars_analyze = lambda device=None: 0
    comfy_aimdo.torch.aimdo_to_tensor = lambda place, device: place[0].memory[place[1] : place[1] + place[2]]
    comfy_aimdo.torch.hostbuf_to_tensor = lambda buffer: buffer.memory
    comfy_aimdo.host_buffer.HostBuffer = HostBuffer
    torch.cuda.cudart = Cudart
    cast = comfy.ops.cast_bias_weight

    def on_the_card(module, input=None, dtype=None, device=None, *rest, **options):
        dtype = input.dtype if dtype is None else dtype
        return cast(module, None, dtype, CARD, *rest, **{"bias_dtype": dtype, **options})

    comfy.ops.cast_bias_weight = on_the_card
