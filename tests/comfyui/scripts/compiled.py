"""TorchCompileModel after LoadFP8Checkpoint and after ScaledLinearPatch, as core's node compiles: inductor."""

from __future__ import annotations

import torch
from inside import answer, call, error, extra, fp8, identical, pack, patched, sample, unet, unload, write_fp8

pack()
extra("nodes_torch_compile.py")
write_fp8("compiled-ltx.safetensors", marked=False)
figures = {}


def measure(name: str, model) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    eager = sample(model, steps=2, digits="38")
    compiled = call("TorchCompileModel", model=model, backend="inductor")[0]
    row = {"error": error(sample(compiled, steps=2, digits="38"), eager)}
    row["after_same"] = identical(sample(model, steps=2, digits="38"), eager)
    row["graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    figures[name] = row
    unload()


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
