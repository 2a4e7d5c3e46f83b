"""Latents of the LTX dialect in every way to compute them; static scales calibrated on the bf16 model."""

from __future__ import annotations

import torch
from inside import (
    BF16,
    CPU,
    MODELS,
    REQUEST,
    answer,
    error,
    forward,
    fp8,
    load,
    pack,
    predict,
    quantized_layers,
    sample,
    unet,
    write_fp8,
)
from safetensors.torch import load_file, save_file

pack()


def calibrated(model) -> dict[str, torch.Tensor]:
    """Key -> amax of each quantized Linear's input / the largest e4m3 value, over one sampling."""
    amax = {}

    def watch(name):
        def hook(module, inputs):
            amax[name] = torch.maximum(amax.get(name, torch.zeros(())), inputs[0].abs().amax().float())

        return hook

    linears = {k.removesuffix(".weight") for k in quantized_layers()}
    modules = dict(model.model.diffusion_model.named_modules())
    hooks = [modules[name].register_forward_pre_hook(watch(name)) for name in linears]
    sample(model)
    for hook in hooks:
        hook.remove()
    return {f"{k}.input_scale": v / torch.finfo(torch.float8_e4m3fn).max for k, v in amax.items()}


bf16 = unet(BF16)
scales = calibrated(bf16)
write_fp8("ltx-calibrated.safetensors", marked=False)
file = MODELS / "ltx-calibrated.safetensors"
save_file(load_file(file) | scales, file, {"format": "pt"})

# without FP8 units a CPU's _scaled_mm takes seconds for what the others do in a thousandth, and a prompt has 512 tokens
MEASURES = {"scaled_mm": forward}
figures = {}
for way in REQUEST["ways"]:
    compute, activation_scale = way.split("-")
    model, clip, vae, report = fp8(file.name, compute=compute, activation_scale=activation_scale)
    assert clip is None and vae is None
    measure = MEASURES.get(compute, sample)
    figures[way] = {"error": error(measure(model), measure(bf16)), "report": report}
figures["scaled_mm-dynamic"] = {"report": fp8(file.name, compute="scaled_mm")[3]}
first = fp8(file.name)[0]
load(first)
loaded = predict(first)
for dtype in (torch.float16, torch.bfloat16):
    model = fp8(file.name)[0]
    model.set_model_compute_dtype(dtype)
    load(model)
    figures[str(dtype)] = {"error": error(predict(model), loaded), "report": ""}
model = fp8(file.name)[0]
figures["dtypes"] = {
    "model": str(model.model_dtype()),
    "inference": str(model.model.get_dtype_inference()),
    "bytes": model.model_size(),
    "bf16_bytes": bf16.model_size(),
    "device": str(CPU),
}
answer(figures)
