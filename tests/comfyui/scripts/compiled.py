"""TorchCompileModel after LoadFP8Checkpoint and after ScaledLinearPatch, as core's node compiles: inductor."""

from __future__ import annotations

import torch
from inside import answer, call, error, extra, fp8, identical, load, pack, patched, predict, unet, unload, write_fp8

pack()
extra("nodes_torch_compile.py")
write_fp8("compiled-ltx.safetensors", marked=False)
figures = {}


def measure(name: str, model) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    # without the padding of a prompt: a CPU without FP8 units multiplies codes one by one
    eager = velocity(model)
    compiled = call("TorchCompileModel", model=model, backend="inductor")[0]
    row = {"error": error(velocity(compiled), eager)}
    row["after_same"] = identical(velocity(model), eager)
    row["graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    figures[name] = row
    unload()


def velocity(model) -> torch.Tensor:
    load(model)
    return predict(model, wrapped=True)


FILE = "diffusion_models/compiled-ltx.safetensors"
models = {
    "patch scaled_mm": patched(unet("compiled-ltx.safetensors"), compute="scaled_mm", scales_from=FILE)[0],
    "loader upcast": fp8("compiled-ltx.safetensors", compute="upcast")[0],
}
for name, model in models.items():
    try:
        measure(name, model)
    except Exception as failure:
        figures[name] = {"failure": f"{type(failure).__name__}: {failure}"[-1500:]}
answer(figures)
