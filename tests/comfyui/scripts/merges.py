"""Core's nodes that ask a model for all its tensors: merges, LoRAs extracted, LoRAs hooked to prompts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from alphabet import LORA, LTX, OTHER, write_files
from inside import BASE, BF16, answer, call, context, error, extra, fp8, identical, load, pack, predict, unet, unload
from inside import MODELS as FOLDER
from safetensors.torch import load_file, save_file

import nodes

torch.set_num_threads(1)
pack()
for file in ("nodes_model_merging.py", "nodes_hooks.py", "nodes_lora_extract.py"):
    extra(file)
write_files()
LATENT = {"samples": torch.zeros(2, 128, 4, 4)}


def quantized(method: str, granularity: str = "per-row"):
    return call("QuantizeModel", model=unet(BF16), method=method, granularity=granularity, keep="")[0]


MODELS: dict[str, Callable] = {
    "loaded": lambda: fp8(LTX, compute="upcast")[0],
    "fp8-dynamic": lambda: quantized("fp8-dynamic"),
    "block": lambda: quantized("fp8-dynamic", "block"),
    "int8": lambda: quantized("int8"),
    "nvfp4": lambda: quantized("nvfp4", "per-tensor"),
}


def merged(model1, model2):
    return call("ModelMergeSimple", model1=model1, model2=model2, ratio=0.5)[0]


def sampled(model, hooks=None) -> torch.Tensor:
    prompt = [[context("38"), {}]]
    if hooks is not None:
        prompt = call("ConditioningSetProperties", cond_NEW=prompt, strength=1.0, set_cond_area="default", hooks=hooks)[
            0
        ]
    out = call(
        "KSampler", model=model, seed=7, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple", positive=prompt,
        negative=prompt, latent_image=LATENT,
    )  # fmt: skip
    return out[0]["samples"].float()


def hooked(model) -> torch.Tensor:
    return sampled(model, call("CreateHookLoraModelOnly", lora_name=f"{LORA}.safetensors", strength_model=0.2)[0])


def forward(model) -> torch.Tensor:
    load(model)
    return predict(model)


def extracted(model) -> torch.Tensor:
    """The LoRA between another model and this one, as core's node extracts it."""
    apart = call("ModelMergeSubtract", model1=unet(OTHER), model2=model, multiplier=1.0)[0]
    nodes.NODE_CLASS_MAPPINGS["LoraSave"].PREPARE_CLASS_CLONE(None).execute(
        filename_prefix="merges/lora", rank=4, lora_type="standard", bias_diff=False, model_diff=apart
    )
    path = sorted((BASE / "output" / "merges").glob("lora*.safetensors"))[-1]
    tensors = load_file(path)
    path.unlink()
    stem = "diffusion_model.single_blocks.0.linear2.lora_"
    return tensors[f"{stem}up.weight"].float() @ tensors[f"{stem}down.weight"].float()


def dequantized() -> str:
    """The FP8 file as what it means, for core's loader; its name."""
    tensors = load_file(FOLDER / LTX)
    scales = {name: tensors.pop(f"{name}_scale") for name in list(tensors) if f"{name}_scale" in tensors}
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith("input_scale")}
    plain |= {name: (tensors[name].float() * scale).bfloat16() for name, scale in scales.items()}
    save_file(plain, FOLDER / "merges-meant.safetensors")
    return "merges-meant.safetensors"


def figures_of(make: Callable) -> dict[str, object]:
    first = forward(merged(make(), unet(OTHER)))
    unload()
    second = forward(merged(unet(OTHER), make()))
    unload()
    model = make()
    plain, found = sampled(model), hooked(model)
    again = identical(hooked(model), found) and identical(sampled(model), plain)
    unload()
    return {
        "first": error(first, WANT["merged"]),
        "second": error(second, WANT["merged"]),
        "hooked": error(found, WANT["hooked"]),
        "again": again,
        "extracted": error(extracted(make()), WANT["extracted" if model.object_patches else "extracted of FP8"]),
    }


bf16 = unet(BF16)
WANT = {"merged": forward(merged(bf16, unet(OTHER))), "hooked": hooked(bf16), "extracted": extracted(bf16)}
effects = {"merged": error(forward(unet(BF16)), WANT["merged"]), "hooked": error(sampled(bf16), WANT["hooked"])}
WANT["extracted of FP8"] = extracted(unet(dequantized()))
answer({"effects": effects, "models": {name: figures_of(make) for name, make in MODELS.items()}})
