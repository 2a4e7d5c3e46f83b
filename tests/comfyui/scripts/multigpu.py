"""Every model of this pack on two devices by ComfyUI's own nodes; a CPU that is called by two names stands for them."""

from __future__ import annotations

import copy
import gc
import importlib
import sys

import card
import comfy.model_management
import torch
from inside import (
    BF16,
    CPU,
    FEW_TOKENS,
    REQUEST,
    answer,
    call,
    context,
    error,
    extra,
    forward,
    fp8,
    identical,
    pack,
    patched,
    same,
    state,
    unet,
    unload,
    write_fp8,
    write_lora,
)

import nodes

# small matrices: a second thread costs more than it does
torch.set_num_threads(1)
HOME, OTHER = (card.CARD, torch.device("cpu", 2)) if REQUEST["dynamic"] else (CPU, torch.device("cpu", 1))
STEPS = 1
LORA = "multigpu-lora.safetensors"


def sampled(model) -> torch.Tensor:
    """Latents by core's KSampler with a negative prompt, which CFG Split runs elsewhere."""
    positive, negative = ([[context(digits), {}]] for digits in ("38", "01"))
    out = call(
        "KSampler", model=model, seed=7, steps=STEPS, cfg=2.0, sampler_name="euler", scheduler="simple",
        positive=positive, negative=negative, latent_image={"samples": torch.zeros(2, 128, 4, 4)},
    )  # fmt: skip
    return out[0]["samples"].float()


def quantized(model, method: str = "fp8-dynamic", granularity: str = "per-row", keep: str = ""):
    return call("QuantizeModel", model=model, method=method, granularity=granularity, keep=keep)[0]


def merged(model, node: str = "LoraLoaderModelOnly"):
    return call(node, model=model, lora_name=LORA, strength_model=1.0)[0]


def beside(model):
    return merged(model, "LoraLoaderBypassModelOnly")


def on(model, device: str = "gpu:1"):
    return call("SelectModelDevice", model=model, device=device)[0]


def as_on_a_gpu(patcher, resolved, base_offload_override=None):
    """What core's nodes do for a GPU, which they tell from the CPU by the type of a device."""
    core._remember_base_devices(patcher)
    load, offload = patcher.model._select_base_load_device, patcher.model._select_base_offload_device
    return core._retarget_patcher(patcher, resolved or load, base_offload_override or offload)


def on_both(model):
    # as ComfyUI does between two nodes: core's own list holds models that are gone until then
    comfy.model_management.cleanup_models_gc()
    comfy.model_management.cleanup_models()
    return call("MultiGPU_WorkUnits", model=model, max_gpus=2)[0]


def calls(weights: dict) -> list[int]:
    """How often each layer ran, by any kernel."""
    return sorted({sum(weight._params.choice.calls.values()) for weight in weights.values()})


def devices_of(weights: dict) -> list[str]:
    return sorted({str(weight._params.choice.layer.device) for weight in weights.values()})


def split(model) -> dict:
    """CFG Split of a model that ran alone before: what both devices did."""
    alone = sampled(model)
    before = state(model)
    both = on_both(model)
    layers = dict(plan.scaled_weights(both))
    here, there = ({n: w for n, w in layers.items() if n.startswith(f"{OTHER}: ") == far} for far in (False, True))
    counts = calls(here)
    got = sampled(both)
    (clone,) = both.get_additional_models_with_key("multigpu")
    own, theirs = ({id(m) for _, m in plan.linears(one)} for one in (both, clone))
    again = sampled(both)
    report = call("FP8Report", model=both)[1]
    figures = {
        "dynamic": model.is_dynamic(),
        "factory": model.cached_patcher_init is not None,
        "error": error(got, alone),
        "again": identical(again, got),
        "layers": [len(here), len(there)],
        "planned": [devices_of(here), devices_of(there)],
        "calls": [[after - counts[0] for after in calls(here)], calls(there)],
        "shared": len(own & theirs),
        "told": f"{OTHER}: " in report,
    }
    unload()
    return figures | {"alone": identical(sampled(model), alone), "state": same(state(model), before)}


def late(model) -> dict:
    """Patched and quantized after the split, which core carries over when it samples."""
    changed = quantized(on_both(model))
    want, got = sampled(quantized(model)), sampled(changed)
    (clone,) = changed.get_additional_models_with_key("multigpu")
    planned = devices_of(dict(plan.scaled_weights(clone)))
    return {"error": error(got, want), "again": identical(sampled(changed), got), "planned": planned}


def changing(root) -> dict:
    """Another method, a LoRA, another one again, both devices used each time: beside each state in a fresh ComfyUI."""
    int8 = ("int8", "per-tensor")
    states = {
        "fp8": quantized,
        "fp8 with LoRA": lambda m: merged(quantized(m)),
        "int8": lambda m: quantized(m, *int8),
        "LoRA before int8": lambda m: quantized(merged(m), *int8),
        "as it was": lambda m: m,
        "fp8 again": quantized,
    }
    found, models, used = {}, set(), []
    for name, make in states.items():
        both = on_both(make(root))
        found[name] = sampled(both)
        (clone,) = both.get_additional_models_with_key("multigpu")
        models.add(id(clone.model))
        used.append(places(clone))
    starts = {name: sampled(on_both(make(unet(BF16)))) for name, make in states.items()}
    return {
        "wrong": [name for name, want in starts.items() if not identical(found[name], want)],
        "models": len(models),
        "used": used,
    }


def places(clone) -> int:
    """Bytes of the other device's address space that were ever given out."""
    bars = getattr(clone.model, "dynamic_vbars", {})
    return bars[OTHER].offset if OTHER in bars else 0


def many_changes(root, count: int = 12) -> dict:
    """What layers of changes before still hold on the other device."""
    used, both = [], None
    for i in range(count):
        both = on_both(quantized(root, *(("int8", "per-tensor") if i % 2 else ("fp8-dynamic", "per-row"))))
        comfy.model_management.load_models_gpu(both.get_additional_models_with_key("multigpu"))
        used.append(places(both.get_additional_models_with_key("multigpu")[0]))
        gc.collect()
    return {"used": used}


def moved(model) -> dict:
    """Select Model Device: the same outputs from the other device, LoRA in between, and from the first again."""
    unload()
    before, want, lora = state(model), forward(model), forward(merged(model))
    there = on(model)
    first = forward(there)
    after, behind, around = forward(merged(there)), forward(on(merged(model))), forward(beside(there))
    figures = {
        "device": str(there.load_device),
        "planned": devices_of(dict(plan.scaled_weights(there))),
        "same": identical(first, want),
        "lora": [identical(after, lora), identical(behind, lora)],
        "beside": identical(around, forward(beside(model))),
        "again": identical(forward(there), want),
        "back": identical(forward(on(there, "default")), want),
        "home": identical(forward(model), want),
    }
    unload()
    return figures | {"state": same(state(model), before)}


def pinned(model) -> dict:
    """Select Model Device: the CPU, by core's own way for it."""
    core._apply_patcher_device = pinning
    want, there = forward(model), on(model, "cpu")
    core._apply_patcher_device = as_on_a_gpu
    return {
        "device": str(there.load_device),
        "same": identical(forward(there), want),
        "home": identical(forward(model), want),
    }


def apart(root) -> dict:
    """Two patches of one model on the other device, and that model itself, in turn."""
    makers = {
        "fp8": quantized,
        "int8": lambda m: quantized(m, "int8", "per-tensor", "single_blocks"),
        "none": lambda m: m,
    }
    want = {name: forward(make(root)) for name, make in makers.items()}
    there = {name: on(make(root)) for name, make in makers.items()}
    turns = ("fp8", "int8", "none", "int8", "fp8", "none")
    return {"wrong": [name for name in turns if not identical(forward(there[name]), want[name])]}


def encoded(clip) -> torch.Tensor:
    return call("CLIPTextEncode", clip=clip, text="a handwritten digit, seven")[0][0][0].float()


def encoder(file: str) -> dict:
    """Text encoders of this pack under Select CLIP Device, and on a device that the loader is given."""
    figures = {}
    loaded = call("LoadFP8TextEncoder", text_encoder=file, type="stable_diffusion")[0]
    plain = call("CLIPLoader", clip_name=REQUEST["plain"], type="stable_diffusion")[0]
    method = {"method": "fp8-dynamic", "granularity": "per-row", "keep": ""}
    for name, clip in {"loaded": loaded, "quantized": call("QuantizeTextEncoder", clip=plain, **method)[0]}.items():
        want = encoded(clip)
        there = call("SelectCLIPDevice", clip=clip, device="gpu:1")[0]
        figures[name] = {
            "device": str(there.patcher.load_device),
            "planned": devices_of(dict(plan.scaled_weights(there.patcher))),
            "same": identical(encoded(there), want),
            "home": identical(encoded(clip), want),
        }
    own = call("LoadFP8TextEncoder", text_encoder=file, type="stable_diffusion", device="cpu")[0]
    pinned = [own.patcher.load_device, own.patcher.offload_device] == [CPU, CPU]
    planned = devices_of(dict(plan.scaled_weights(own.patcher)))
    return figures | {"pinned": pinned, "planned": planned, "same": identical(encoded(own), encoded(loaded))}


def tiny_autoencoder(disable_dynamic: bool = False):
    return call("VAELoader", vae_name="taef2")[0].patcher


def autoencoder() -> dict:
    """A quantized VAE under Select VAE Device."""
    latent = {"samples": torch.randn(1, 128, 4, 4, generator=torch.Generator().manual_seed(7))}
    plain = call("VAELoader", vae_name="taef2")[0]
    # core knows where to load a VAE of one file again; this one is of two
    plain.patcher.cached_patcher_init = (tiny_autoencoder, ())
    vae = call("QuantizeVAE", vae=plain, method="int8", granularity="default", keep="")[0]
    want, original = (call("VAEDecode", vae=each, samples=latent)[0] for each in (vae, plain))
    # as Select VAE Device does with a GPU; it takes no CPU, by whatever name
    there = copy.copy(vae)
    there.patcher = as_on_a_gpu(vae.patcher.clone(), OTHER)
    there.first_stage_model = there.patcher.model
    return {
        "device": str(there.patcher.load_device),
        "differs": not identical(want, original),
        "same": identical(call("VAEDecode", vae=there, samples=latent)[0], want),
        "home": identical(call("VAEDecode", vae=vae, samples=latent)[0], want),
        "plain": identical(call("VAEDecode", vae=plain, samples=latent)[0], original),
    }


pack()
extra("nodes_multigpu.py")
core = sys.modules[nodes.NODE_CLASS_MAPPINGS["SelectModelDevice"].__module__]
pinning, core._apply_patcher_device = core._apply_patcher_device, as_on_a_gpu
extra("nodes_lora_debug.py")
plan = importlib.import_module(f"{next(n for n in sys.modules if n.endswith('scaled-fp8.nodes'))}.host.plan")
write_fp8("multigpu-ltx.safetensors", marked=False)
write_lora(LORA, strength=1.0)
FILE = "diffusion_models/multigpu-ltx.safetensors"
if REQUEST["dynamic"]:
    card.insert()
comfy.model_management.get_all_torch_devices = lambda exclude_current=False: (
    [OTHER] if exclude_current else [HOME, OTHER]
)
# as core loads it: scales are dropped
dropped = unet("multigpu-ltx.safetensors")
MODELS = {
    "LoadFP8Checkpoint": fp8("multigpu-ltx.safetensors", compute="upcast")[0],
    "ScaledLinearPatch": patched(dropped, "upcast", scales_from=FILE)[0],
    "ScaledLinearPatch, int8": patched(dropped, "int8", layers=FEW_TOKENS, scales_from=FILE)[0],
    "QuantizeModel": quantized(unet(BF16)),
}
# core's own bf16 model, taken to the CPU from a stand-in for a card, computes in bf16 what it is fed in float32
PINNED = ("LoadFP8Checkpoint",) if REQUEST["dynamic"] else MODELS
answer({
    "split": {name: split(model) for name, model in MODELS.items()},
    "moved": {name: moved(model) for name, model in MODELS.items()},
    "late": late(unet(BF16)),
    "changing": changing(unet(BF16)),
    "many changes": many_changes(unet(BF16)),
    "apart": apart(unet(BF16)),
    "pinned": {name: pinned(MODELS[name]) for name in PINNED},
    # the stand-in for a card runs diffusion models alone
    **({} if REQUEST["dynamic"] else {"encoder": encoder(REQUEST["file"]), "autoencoder": autoencoder()}),
})  # fmt: skip
