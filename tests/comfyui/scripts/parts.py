"""A CLIP and a VAE quantized, loaded by each compute, reported and remembered as a MODEL is."""

from __future__ import annotations

import importlib
import sys

import torch
from inside import BASE, BF16, REQUEST, answer, call, error, identical, pack, sample, unet, unload

WORDS = "a handwritten digit, seven, black on white"
pack()
engine = next(name for name in sys.modules if name.endswith("scaled-fp8.nodes"))
runs = importlib.import_module(f"{engine}.panel.runs")
parts = importlib.import_module(f"{engine}.host.parts")


def conditioning(clip) -> torch.Tensor:
    return call("CLIPTextEncode", clip=clip, text=WORDS)[0][0][0].float()


def decoded(vae) -> torch.Tensor:
    return call("VAEDecode", vae=vae, samples={"samples": latents})[0].float()


def psnr(got: torch.Tensor, want: torch.Tensor) -> float:
    """Of pictures in [0, 1], in dB."""
    return -10 * torch.log10((got - want).square().mean()).item()


def reported(part) -> dict:
    """What FP8Report draws and says, and what the panel is told."""
    image, table = call("FP8Report", model=part, after=None)
    run = runs.run_of(part, "7", "Test")
    rows = [(row["layer"], row["kernel"], row["calls"]) for row in run.to_json()["layers"]]
    return {"image": list(image.shape), "table": table, "rows": rows, "part": run.summary()["part"], "key": run.key}


def quantized(node: str, name: str, part, method: str) -> tuple:
    return call(node, **{name: part}, method=method, granularity="default", keep="")


def clips() -> dict:
    clip = call("CLIPLoader", clip_name="clip_l.safetensors", type="stable_diffusion")[0]
    want, figures = conditioning(clip), {}
    for method in REQUEST["clip"]:
        made, report = quantized("QuantizeTextEncoder", "clip", clip, method)
        figures[method] = {"error": error(conditioning(made), want), "said": report, **reported(made)}
    return {"methods": figures, "untouched": identical(conditioning(clip), want), "original": reported(clip)}


def computes() -> dict:
    """LoadFP8TextEncoder by each compute; "" is what the node does by itself."""
    want = conditioning(call("CLIPLoader", clip_name="clip_l.safetensors", type="stable_diffusion")[0])
    figures = {}
    for compute in REQUEST["compute"]:
        asked = {"compute": compute} if compute else {}
        clip, said = call("LoadFP8TextEncoder", text_encoder=REQUEST["file"], type="stable_diffusion", **asked)
        # a CPU without FP8 units multiplies FP8 codes one by one: what is planned is enough there
        off = None if compute == "scaled_mm" else error(conditioning(clip), want)
        figures[compute] = {"error": off, "said": said, **reported(clip)}
        unload()
    return figures


def vaes() -> dict:
    vae = call("VAELoader", vae_name="taef2")[0]
    want = decoded(vae)
    made, report = quantized("QuantizeVAE", "vae", vae, "int8")
    return {
        "psnr": psnr(decoded(made), want), "said": report, **reported(made),
        "untouched": identical(decoded(vae), want), "original": reported(vae),
    }  # fmt: skip


def refused(**inputs) -> str:
    try:
        call("FP8Report", after=None, **inputs)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return ""


def measured() -> dict:
    """Errors that a node noted: reported, with the noise named, and gone when the model is patched anew."""
    model = call("QuantizeModel", model=unet(BF16), method="fp8-dynamic", granularity="per-row", keep="linear2")[0]
    errors = {name: float(value) for name, value in REQUEST["errors"].items()}
    parts.note_errors(model, errors)
    patched = call("ScaledLinearPatch", model=model, compute="upcast", activation_scale="dynamic", layers=".*",
                   scales_from="none")[0]  # fmt: skip
    kept = runs.run_of(model).to_json()["layers"]
    return {
        **reported(model), "layers": kept, "clone": len(runs.run_of(model.clone()).errors),
        "patched": len(runs.run_of(patched).errors), "lora": patched_in_place(model, errors),
        "plain": reported(unet(BF16))["image"],
    }  # fmt: skip


def patched_in_place(model, errors: dict[str, float]) -> int:
    """How many errors a model still has after a LoRA was added to itself."""
    again = model.clone()
    parts.note_errors(again, errors)
    again.add_patches({"diffusion_model.double_blocks.0.img_attn.qkv.weight": (torch.zeros(768, 256),)}, 1.0)
    return len(runs.run_of(again).errors)


latents = sample(unet(BF16), steps=1, digits="0123456789")
answer({
    "clip": clips(), "compute": computes(), "vae": vaes(), "refused": refused(model=3), "measured": measured(),
    "files": sorted(path.name for path in (BASE / "output" / "scaled_fp8").glob("*")),
})  # fmt: skip
