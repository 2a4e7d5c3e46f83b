"""Every model of this pack on two devices by ComfyUI's own nodes; a CPU that is called by two names stands for them."""

from __future__ import annotations

import importlib
import sys

import comfy.model_management
import torch
from inside import (  # fmt: skip
    BF16,
    CPU,
    FEW_TOKENS,
    REQUEST,
    answer,
    call,
    context,
    error,
    extra,
    fp8,
    identical,
    pack,
    patched,
    same,
    state,
    unet,
    unload,
    write_fp8,
)

OTHER = torch.device("cpu", 1)
STEPS = 1
comfy.model_management.get_all_torch_devices = lambda exclude_current=False: (
    [OTHER] if exclude_current else [CPU, OTHER]
)


def sampled(model) -> torch.Tensor:
    """Latents by core's KSampler with a negative prompt, which CFG Split runs elsewhere."""
    positive, negative = ([[context(digits), {}]] for digits in ("38", "01"))
    out = call(
        "KSampler", model=model, seed=7, steps=STEPS, cfg=2.0, sampler_name="euler", scheduler="simple",
        positive=positive, negative=negative, latent_image={"samples": torch.zeros(2, 128, 4, 4)},
    )  # fmt: skip
    return out[0]["samples"].float()


def quantized(model):
    return call("QuantizeModel", model=model, method="fp8-dynamic", granularity="per-row", keep="")[0]


def calls(weights: dict) -> list[int]:
    """How often each layer ran, by any kernel."""
    return sorted({sum(weight._params.choice.calls.values()) for weight in weights.values()})


def devices_of(weights: dict) -> list[str]:
    return sorted({str(weight._params.choice.layer.device) for weight in weights.values()})


def split(model) -> dict:
    """CFG Split of a model that ran alone before: what both devices did."""
    alone = sampled(model)
    before = state(model)
    both = call("MultiGPU_WorkUnits", model=model, max_gpus=2)[0]
    layers = dict(plan.scaled_weights(both))
    here, there = ({n: w for n, w in layers.items() if n.startswith(f"{OTHER}: ") == far} for far in (False, True))
    counts = calls(here)
    got = sampled(both)
    (clone,) = both.get_additional_models_with_key("multigpu")
    own, theirs = ({id(m) for _, m in plan.linears(one)} for one in (both, clone))
    again = sampled(both)
    report = call("FP8Report", model=both)[1]
    figures = {
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
    split = call("MultiGPU_WorkUnits", model=model, max_gpus=2)[0]
    changed = quantized(split)
    want, got = sampled(quantized(model)), sampled(changed)
    return {"error": error(got, want), "again": identical(sampled(changed), got)}


def moved(model) -> dict:
    """Select Model Device: the same latents from the other device, and from the first again."""
    want = sampled(model)
    there = call("SelectModelDevice", model=model, device="gpu:1")[0]
    got = identical(sampled(there), want)
    planned = devices_of(dict(plan.scaled_weights(there)))
    back = call("SelectModelDevice", model=there, device="default")[0]
    return {"device": str(there.load_device), "planned": planned, "same": got, "back": identical(sampled(back), want)}


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
        figures[name] = {"device": str(there.patcher.load_device), "same": identical(encoded(there), want)}
    own = call("LoadFP8TextEncoder", text_encoder=file, type="stable_diffusion", device="cpu")[0]
    pinned = [own.patcher.load_device, own.patcher.offload_device] == [CPU, CPU]
    return figures | {"pinned": pinned, "same": identical(encoded(own), encoded(loaded))}


pack()
extra("nodes_multigpu.py")
plan = importlib.import_module(f"{next(n for n in sys.modules if n.endswith('scaled-fp8.nodes'))}.host.plan")
write_fp8("multigpu-ltx.safetensors", marked=False)
FILE = "diffusion_models/multigpu-ltx.safetensors"
# as core loads it: scales are dropped
dropped = unet("multigpu-ltx.safetensors")
MODELS = {
    "LoadFP8Checkpoint": fp8("multigpu-ltx.safetensors", compute="upcast")[0],
    "ScaledLinearPatch": patched(dropped, "upcast", scales_from=FILE)[0],
    "ScaledLinearPatch, int8": patched(dropped, "int8", layers=FEW_TOKENS, scales_from=FILE)[0],
    "QuantizeModel": quantized(unet(BF16)),
}
answer({
    "split": {name: split(model) for name, model in MODELS.items()},
    "moved": {name: moved(model) for name, model in MODELS.items()},
    "late": late(unet(BF16)),
    "encoder": encoder(REQUEST["file"]),
})  # fmt: skip
