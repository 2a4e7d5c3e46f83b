"""Compare Models on the digits model, beside what is computed here from files, weights and core's own sampling."""

from __future__ import annotations

import os
import sys

import card
import comfy.model_management as management
import comfy.sd
import comfy.utils
import numpy as np
import torch
from comfy.taesd.taesd import TAESD
from inside import (
    BASE,
    BF16,
    MODELS,
    REQUEST,
    answer,
    call,
    context,
    error,
    extra,
    identical,
    load,
    pack,
    patched,
    quantized_layers,
    same,
    sample,
    state,
    unet,
    unload,
    write_fp8,
    write_lora,
)
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter

# small matrices: a second thread costs more than it does
torch.set_num_threads(1)
pack()
extra("nodes_lora_debug.py")
engine = next(name for name in sys.modules if name.endswith("scaled-fp8.nodes"))
write_fp8("compare-marked.safetensors", marked=True)
write_fp8("compare-bare.safetensors", marked=False)
write_lora("compare-lora.safetensors", strength=0.5)
if REQUEST["dynamic"]:
    card.insert()
STEPS, DIGIT = 3, "3"
CONDITIONING = [[context(DIGIT), {}]]
LATENT = {"samples": torch.zeros(1, 128, 4, 4)}
LAYER = "double_blocks.0.img_attn.qkv"


def compare(a, b, attribute="never", **inputs):
    """Compare Models: its outputs, with the figures of the report as numbers."""
    asked = {
        "positive": CONDITIONING, "negative": CONDITIONING, "latent": LATENT, "seed": 7, "steps": STEPS, "cfg": 1.0,
        "sampler_name": "euler", "scheduler": "simple", "images": 1,
    }  # fmt: skip
    found = call("CompareModels", model_a=a, model_b=b, attribute=attribute, **{**asked, **inputs})
    gate = sys.modules[engine.removesuffix("nodes") + "quant.quality.gate"]
    return *found[:3], found[3], {name: str(value) for name, value in gate.figures_of(found[3]).items()}


def said(action) -> str:
    """The class and message of what action raises."""
    try:
        action()
    except Exception as failure:
        return f"{type(failure).__name__}: {failure}"
    return "nothing"


def errors(model) -> dict[str, str]:
    return {name: str(decibel) for name, decibel in (model.get_attachment("scaled_fp8_errors") or {}).items()}


def with_lora(model, way: str):
    return call(way, model=model, lora_name="compare-lora.safetensors", strength_model=1.0)[0]


def quantized(model, method="fp8-weight-only", keep=""):
    return call("QuantizeModel", model=model, method=method, granularity="per-tensor", keep=keep)[0]


def own(a, b, seed=7) -> float:
    """The latent error as the other contract tests measure it."""
    one, other = (sample(model, steps=STEPS, digits=DIGIT, seed=seed) for model in (a, b))
    return error(other, one)


MERGED, BESIDE = "LoraLoaderModelOnly", "LoraLoaderBypassModelOnly"
figures: dict = {}

##### By hand: the same error from weights in files


def fed(model) -> list[torch.Tensor]:
    """What the layer is fed in the first and last of two steps."""
    seen = []
    load(model)
    module = comfy.utils.get_attr(model.model, f"diffusion_model.{LAYER}")
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    sample(model, steps=2, digits=DIGIT)
    hook.remove()
    return seen


def by_hand(inputs: list[torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> float:
    """SQNR of x @ b.T against x @ a.T in float64."""
    one, other = (torch.cat([x.double().flatten(0, -2) @ w.double().T for x in inputs]) for w in (a, b))
    return 20 * torch.log10(one.norm() / (other - one).norm()).item()


def structure(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of one picture ``[height, width, 3]`` by its formula, a Gaussian of 11 pixels."""

    def blurred(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, mode="mirror", truncate=3.5, axes=(0, 1))

    ma, mb = blurred(a), blurred(b)
    va, vb, cov = blurred(a * a) - ma**2, blurred(b * b) - mb**2, blurred(a * b) - ma * mb
    over = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4)
    return float((over / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))).mean())


bf16, marked = unet(BF16), unet("compare-marked.safetensors")
file, codes = load_file(MODELS / BF16), load_file(MODELS / "compare-marked.safetensors")
key = f"{LAYER}.weight"
dequantized = codes[key].float() * codes[f"{key}_scale"]
before, bare = state(bf16), sample(bf16, steps=STEPS, digits=DIGIT)

vae = None if REQUEST["dynamic"] else call("VAELoader", vae_name="taef2")[0]
a, b, apart, report, found = compare(bf16, marked, "always", steps=2, vae=vae)
figures["fp8"] = found | {
    "report": report,
    "errors": errors(marked),
    "by hand": by_hand(fed(bf16), file[key], dequantized),
}
if vae is not None:
    pictures = [image[0].double().numpy() for image in (a, b)]
    figures["fp8"] |= {
        "own psnr": -10 * float(np.log10(((pictures[1] - pictures[0]) ** 2).mean())),
        "own ssim": structure(*pictures),
        "shapes": [list(image.shape) for image in (a, b, apart)],
        "brightest": float(apart.amax()),
        "proportional": float(((b - a).abs() * apart.amax() / (b - a).abs().amax() - apart).abs().amax()),
    }
_, _, _, report, found = compare(bf16, marked, images=2)
figures["two seeds"] = found | {"own": [own(bf16, marked, seed) for seed in (7, 8)], "report": report}
figures["one seed"] = compare(bf16, marked)[4] | {"own": own(bf16, marked)}

##### LPIPS, by a package that stands in for lpips: with its weights in torch's cache, and without

STAND_IN = """
class LPIPS:
    def __init__(self, **settings):
        pass

    def __call__(self, a, b, normalize):
        return (a - b).abs().mean()
"""
if vae is not None:
    packages, cache = BASE / "packages", BASE / "torch" / "hub" / "checkpoints"
    packages.mkdir(exist_ok=True), cache.mkdir(parents=True, exist_ok=True)
    (packages / "lpips.py").write_text(STAND_IN)
    sys.path.append(str(packages))
    os.environ["TORCH_HOME"] = str(BASE / "torch")
    measures = sys.modules[f"{engine}.host.pictures"]
    figures["lpips without"] = measures.figures(a, b).get("lpips")
    (weights,) = sys.modules[f"{engine}.host.perceptual"].lpips_weights()
    (cache / weights.rpartition("/")[2]).touch()
    figures["lpips"] = [measures.figures(a, b)["lpips"], float((a - b).abs().mean())]
    sys.path.remove(str(packages))

##### The same model, and noise

figures["itself"] = compare(bf16, bf16, "always", vae=vae)[4] | {"report": compare(bf16, bf16, vae=vae)[3]}
figures["its twin"] = compare(bf16, unet(BF16), "always")[4]
noise = unet("compare-bare.safetensors")
figures["noise"] = {
    "report": compare(bf16, noise, "auto")[3],
    "errors": errors(noise),
    "layers": len(quantized_layers()),
}

##### Clones of one model, LoRA, two computes of one file

mine = quantized(bf16)
apart_from = {}
for way, one, other in (("clone", bf16, mine), ("fresh", unet(BF16), quantized(unet(BF16)))):
    apart_from[way] = [compare(one, other, "always")[4], errors(other), compare(other, one, "always")[4], errors(one)]
figures["clones"] = apart_from
figures["lora"] = {}
delta = load_file(MODELS.parent / "loras" / "compare-lora.safetensors")
stem = f"diffusion_model.{LAYER}"
strong = file[key].float() + delta[f"{stem}.lora_up.weight"] @ delta[f"{stem}.lora_down.weight"]
for way in (MERGED, BESIDE):
    lora = with_lora(bf16, way)
    figures["lora"][f"{way} itself"] = compare(lora, lora.clone(), "always", steps=2)[4]
    compare(bf16, lora, "always", steps=2)
    figures["lora"][way] = float(errors(lora)[LAYER])
    compare(with_lora(bf16, MERGED), lora, "always", steps=2)
    figures["lora"][f"{way} beside merged"] = float(errors(lora)[LAYER])
    figures["lora"][f"{way} quantized"] = compare(lora, with_lora(mine, way))[4]["latent_error"]
    figures["lora"][f"{way} quantized, own"] = own(lora, with_lora(mine, way))
figures["lora"]["by hand"] = by_hand(fed(bf16), file[key], strong)
ours = [patched(marked, compute=way)[0] for way in ("upcast", "int8")]
figures["computes"] = compare(*ours, "always")[4] | {"errors": errors(ours[1]), "own": own(*ours)}
counted = sum(row.calls for row in sys.modules[f"{engine}.host.plan"].model_report(ours[1]).rows)
compare(bf16, ours[1], "always")
again = sum(row.calls for row in sys.modules[f"{engine}.host.plan"].model_report(ours[1]).rows)
figures["calls"] = [again - counted, STEPS * len(quantized_layers())]
figures["clone has errors"] = errors(marked.clone())

##### Interrupted at each of its parts


def interrupted(at: int) -> list:
    """Stop at that step; what was raised, and whether both compute what they did."""
    told = []

    def watch(value, total, *rest, **more):
        told.append(value)
        # ComfyUI leaves out what comes soon after another
        if value >= at > max(told[:-1], default=0):
            management.interrupt_current_processing(True)

    comfy.utils.set_progress_bar_global_hook(watch)
    raised = ""
    try:
        compare(bf16, mine, "always")
    except management.InterruptProcessingException as failure:
        raised = type(failure).__name__
    comfy.utils.set_progress_bar_global_hook(None)
    management.interrupt_current_processing(False)
    hooks = sum(len(module._forward_hooks) for module in bf16.model.modules())
    return [raised, told, hooks]


figures["interrupted"] = [interrupted(at) for at in (1, STEPS + 1, 2 * STEPS + 1)]
told = []
comfy.utils.set_progress_bar_global_hook(lambda value, total, *rest, **more: told.append((value, total)))
figures["after"] = [compare(bf16, mine, "always")[4], errors(mine)]
comfy.utils.set_progress_bar_global_hook(None)
figures["progress"] = told
card = sys.modules[f"{engine}.host.provenance"].quality_of
figures["card"] = card(mine).metrics["latent_error"]
figures["exact output"] = identical(sample(bf16, steps=STEPS, digits=DIGIT), bare)
unload()
figures["exact state"] = same(state(bf16), before)

##### With every weight left where it is (legacy low VRAM)

if not REQUEST["dynamic"]:
    loading = management.LoadedModel.model_load
    management.LoadedModel.model_load = lambda self, *rest, **more: loading(self, 1, **more)
    figures["low vram"] = [compare(bf16, mine, "always")[4], errors(mine), bf16.lowvram_patch_counter()]
    management.LoadedModel.model_load = loading
    unload()

##### What cannot be compared

tensors = {name: tensor for name, tensor in file.items() if not name.startswith("single_blocks.2.")}
save_file(tensors, MODELS / "compare-shallow.safetensors")
other = comfy.sd.VAE(sd=TAESD(latent_channels=4).state_dict())
if not REQUEST["dynamic"]:
    figures["refusals"] = {
        "architecture": said(lambda: compare(bf16, vae.patcher)),
        "layer": said(lambda: compare(bf16, unet("compare-shallow.safetensors"))),
        "latent": said(lambda: compare(bf16, marked, latent={"samples": torch.ones(1, 4, 8, 8)})),
        "vae": said(lambda: compare(bf16, marked, vae=other)),
        "missed": said(lambda: call("RequireQuality", report=report, metric="latent_error", limit=1e-9)),
        "not measured": said(lambda: call("RequireQuality", report=report, metric="psnr", limit=1.0)),
        "no report": said(lambda: call("RequireQuality", report="fine", metric="psnr", limit=1.0)),
    }
    held = call("RequireQuality", report=report, metric="latent_error", limit=0.1)
    figures["held"] = held[0] == report
answer(figures)
