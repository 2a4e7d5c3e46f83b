"""What core's own nodes save of quantized models, text encoders and VAEs, loaded by its own loaders and here."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import torch
from alphabet import ENCODERS, FP8_ENCODERS, LORA, LTX, SMALL, write_files
from inside import BASE, BF16, answer, call, error, extra, forward, fp8, pack, sample, unet, unload
from running import conditioning
from safetensors.torch import load_file

torch.set_num_threads(1)
pack()
extra("nodes_model_merging.py")
write_files()


def saved(node: str, folder: str, **part) -> Path:
    """The file that a node of core's wrote, moved to where its loaders find it."""
    call(node, filename_prefix=f"by_core/{node}", **part)
    (written,) = (BASE / "output" / "by_core").glob("*.safetensors")
    folder_paths.filename_list_cache.clear()
    return written.replace(BASE / "models" / folder / "by-core.safetensors")


def attempt(work, want: torch.Tensor) -> float | str:
    try:
        return error(work(), want)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"


def quantized(model, method: str, granularity: str = "default"):
    return call("QuantizeModel", model=model, method=method, granularity=granularity, keep="")[0]


def steps_off(got: torch.Tensor, want: torch.Tensor) -> float:
    """By how many steps of INT8 with one scale a tensor differs at most."""
    return float((got - want).abs().max() / (want.abs().max() / 127))


def with_lora(part, clip: bool = False):
    if clip:
        how = {"model": None, "clip": part, "strength_model": 0.0, "strength_clip": 1.0}
        return call("LoraLoader", lora_name=f"{LORA}-encoder.safetensors", **how)[1]
    return call("LoraLoaderModelOnly", model=part, lora_name=f"{LORA}.safetensors", strength_model=1.0)[0]


##### Models

base = unet(BF16)
MODELS = {
    "loaded": lambda: fp8(LTX)[0],
    "loaded as int8": lambda: fp8(LTX, compute="int8")[0],
    "loaded, LoRA": lambda: with_lora(fp8(LTX)[0]),
    "fp8-dynamic": lambda: quantized(base, "fp8-dynamic", "per-tensor"),
    "fp8-dynamic, LoRA": lambda: with_lora(quantized(base, "fp8-dynamic", "per-tensor")),
    "LoRA, int8": lambda: quantized(with_lora(base), "int8"),
    "nvfp4": lambda: quantized(base, "nvfp4"),
    "fp8-dynamic per-row": lambda: quantized(base, "fp8-dynamic", "per-row"),
}
figures = {"models": {}, "encoders": {}, "vaes": {}}
for name, make in MODELS.items():
    model = make()
    want = forward(model)
    unload()
    file = saved("ModelSave", "diffusion_models", model=model).name
    figures["models"][name] = {
        "core": attempt(lambda file=file: forward(unet(file)), want),
        "here": attempt(lambda file=file: forward(fp8(file, compute="upcast")[0]), want),
    }

##### Text encoders: a CLIP-L, which core reads without scales

own = call("CLIPLoader", clip_name=ENCODERS[0], type=SMALL.type)[0]


def quantized_encoder(method: str):
    return call("QuantizeTextEncoder", clip=own, method=method, granularity="default", keep="")[0]


CLIPS = {
    "loaded": lambda: call("LoadFP8TextEncoder", text_encoder=FP8_ENCODERS["ltx"], type=SMALL.type)[0],
    "int8": lambda: quantized_encoder("int8"),
    "int8, LoRA": lambda: with_lora(quantized_encoder("int8"), clip=True),
    "nvfp4": lambda: quantized_encoder("nvfp4"),
}
for name, make in CLIPS.items():
    for in_memory in (True, False):
        clip = make()
        want = conditioning(clip, "loaded", "38")
        if not in_memory:
            unload()
        file = saved("CLIPSave", "text_encoders", clip=clip).name
        figures["encoders"][f"{name}, {'loaded' if in_memory else 'evicted'}"] = {
            "core": attempt(
                lambda f=file: conditioning(call("CLIPLoader", clip_name=f, type=SMALL.type)[0], "loaded", "38"), want
            ),
            "here": attempt(
                lambda f=file: conditioning(
                    call("LoadFP8TextEncoder", text_encoder=f, type=SMALL.type)[0], "loaded", "38"
                ),
                want,
            ),
            "again": error(conditioning(clip, "loaded", "38"), want),
        }

##### A VAE

plain = call("VAELoader", vae_name="taef2")[0]
before = {name: tensor.clone() for name, tensor in plain.first_stage_model.state_dict().items()}
vae = call("QuantizeVAE", vae=plain, method="int8", granularity="default", keep="")[0]
latent = {"samples": sample(base, steps=1, digits="3")}
own_picture, picture = (call("VAEDecode", vae=one, samples=latent)[0].float() for one in (plain, vae))
for in_memory in (True, False):
    if not in_memory:
        unload()
    tensors = load_file(saved("VAESave", "vae", vae=vae))
    weights = {name: tensor for name, tensor in tensors.items() if name in before and tensor.ndim > 1}
    figures["vaes"]["loaded" if in_memory else "evicted"] = {
        "unknown": sorted(tensors.keys() - before.keys()),
        "dtypes": sorted({str(tensor.dtype) for tensor in tensors.values()}),
        "moved": sum(not torch.equal(tensor, before[name]) for name, tensor in weights.items()),
        "steps": max(steps_off(tensor, before[name]) for name, tensor in weights.items()),
    }
    call("VAEDecode", vae=vae, samples=latent)
figures["picture"] = error(picture, own_picture)
answer(figures)
