"""What the nodes say when they cannot, what an interrupt leaves behind, and what a progress bar is told."""

from __future__ import annotations

import gc
import inspect

import comfy.model_management
import comfy.utils
import torch
from inside import BASE, BF16, MODELS, answer, error, forward, fp8, pack, patched, state, unet, unload, write_fp8
from safetensors.torch import save_file

own = pack()
write_fp8("fine.safetensors", marked=False)
(MODELS / "cut.safetensors").write_bytes((MODELS / "fine.safetensors").read_bytes()[:100_000])
save_file({"a.weight": torch.zeros(32, 32).to(torch.float8_e4m3fn)}, MODELS / "alien.safetensors")
noise, bf16 = unet("fine.safetensors"), unet(BF16)
want = forward(bf16)
unload()


def said(action) -> str:
    """The class and message of what action raises."""
    try:
        action()
    except Exception as failure:
        return f"{type(failure).__name__}: {failure}"
    return "nothing"


fine = "diffusion_models/fine.safetensors"
refusals = {
    "cut": said(lambda: fp8("cut.safetensors")),
    "alien": said(lambda: fp8("alien.safetensors")),
    "absent": said(lambda: fp8("absent.safetensors")),
    "nothing to patch": said(lambda: patched(bf16)),
    "layers match nothing": said(lambda: patched(noise, layers="no such layer", scales_from=fine)),
    "bad expression": said(lambda: patched(noise, layers="(", scales_from=fine)),
    "scales dropped": said(lambda: patched(noise)),
    "cut scales": said(lambda: patched(noise, scales_from="diffusion_models/cut.safetensors")),
    "scales of another model": said(lambda: patched(noise, scales_from="diffusion_models/alien.safetensors")),
}

# progress
told = []
comfy.utils.set_progress_bar_global_hook(lambda value, total, *rest, **more: told.append((value, total)))
model = fp8("fine.safetensors")[0]
comfy.utils.set_progress_bar_global_hook(None)
figures = {"refusals": refusals, "progress": told[-1] if told else None, "after": error(forward(model), want)}
del model
unload()

# an interrupt in the middle of loading
files = sorted(str(p) for p in BASE.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def interrupt(value, total, *rest, **more):
    assert value < total
    comfy.model_management.interrupt_current_processing(True)


gc.collect()
alive = sum(isinstance(o, torch.nn.Module) for o in gc.get_objects())
comfy.utils.set_progress_bar_global_hook(interrupt)
try:
    fp8("fine.safetensors")
    figures["interrupted"] = "nothing"
except BaseException as failure:
    figures["interrupted"] = type(failure).__name__
comfy.utils.set_progress_bar_global_hook(None)
comfy.model_management.interrupt_current_processing(False)
gc.collect()
figures["modules_left"] = sum(isinstance(o, torch.nn.Module) for o in gc.get_objects()) - alive
figures["models_left"] = len(comfy.model_management.current_loaded_models)
now = sorted(str(p) for p in BASE.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
figures["files_left"] = sorted(set(now) ^ set(files))
figures["loads_again"] = error(forward(fp8("fine.safetensors")[0]), want)
figures["state"] = len(state(noise)) > 0

# schemas
figures["schemas"] = {
    name: {
        "ids": [i.id for i in node.GET_SCHEMA().inputs],
        "parameters": list(inspect.signature(node.execute).parameters),
        "outputs": [o.io_type for o in node.GET_SCHEMA().outputs],
        "untold": [i.id for i in node.GET_SCHEMA().inputs if not i.tooltip and i.io_type != "MODEL"],
        "aliases": node.GET_SCHEMA().search_aliases,
        "description": node.GET_SCHEMA().description,
    }
    for name, node in own.items()
}
answer(figures)
