"""Calibration, sensitivity and budgets in the graph: the watching model, what it is worth, what is refused."""

from __future__ import annotations

from pathlib import Path

import torch
from inside import (
    BASE,
    BF16,
    REQUEST,
    answer,
    call,
    context,
    error,
    fp8,
    identical,
    load,
    pack,
    same,
    sample,
    save_file,
    state,
    unet,
    unload,
    write_fp8,
    write_lora,
)
from safetensors.torch import load_file

pack()
DIGITS, STEPS, SEEN, OTHER = "03", 2, 100, 7
FOLDER = BASE / "models" / "scaled_fp8"
base = unet(BF16)


def run(model, seed: int = OTHER) -> torch.Tensor:
    return sample(model, STEPS, DIGITS, seed)


def quantized(method: str, calibration=None, **more):
    return call(
        "QuantizeModel", model=base, method=method, granularity="per-tensor", keep="", calibration=calibration, **more
    )


def refusal(node: str, **inputs) -> str:
    try:
        call(node, **inputs)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return ""


def saved(model, name: str) -> str:
    """Written by SaveQuantizedModel and put where the loaders look, with its latents; its name."""
    call("SaveQuantizedModel", model=model, filename_prefix=f"diffusion_models/{name}")
    written = sorted((BASE / "output" / "diffusion_models").glob(f"{name}_*.safetensors"))[-1]
    written.rename(BASE / "models" / "diffusion_models" / f"{name}.safetensors")
    return f"{name}.safetensors"


##### Watching

want, seen, before = run(base), run(base, SEEN), state(base)
watching = call("CalibrateModel", model=base, name="digits", memory_gb=1.0)[0]
figures = {
    "watched": identical(run(watching, SEEN), seen),
    "not watched": refusal("SaveCalibration", model=base),
    "name": refusal("CalibrateModel", model=base, name="../digits"),
}
first, report = call("SaveCalibration", model=watching)
rows = [first["double_blocks.0.img_attn.qkv"].moments.rows]
figures |= {"report": report, "nothing new": refusal("SaveCalibration", model=watching), "steps": first.facts.steps}
run(watching, SEEN + 1)
calibration = call("SaveCalibration", model=watching)[0]
figures["added"] = calibration.facts.steps
figures["rows"] = [*rows, calibration["double_blocks.0.img_attn.qkv"].moments.rows]
write_lora("watched.safetensors", 0.2)
merged = call("LoraLoaderModelOnly", model=watching, lora_name="watched.safetensors", strength_model=1.0)[0]
plain = call("LoraLoaderModelOnly", model=base, lora_name="watched.safetensors", strength_model=1.0)[0]
figures["with LoRA"] = identical(run(merged, SEEN), run(plain, SEEN))
load(base)
figures["untouched"] = same(state(base), before)
unload()

##### What it is worth

figures["errors"] = {}
for method in REQUEST["methods"]:
    pair = [error(run(quantized(method, known)[0]), want) for known in (None, calibration)]
    figures["errors"][method] = pair
    unload()

figures["budgets"], figures["files"] = {}, {}
for budget in REQUEST["budgets"]:
    model, text = quantized("budget", calibration, budget=budget, formats="nvfp4,int8")
    latents = run(model)
    name = f"budget-{budget.replace(' ', '-')}"
    figures["budgets"][budget] = {"error": error(latents, want), "report": text}
    figures["files"][saved(model, name)] = name
    save_file({"latents": latents}, Path(REQUEST["latents"]) / f"{name}.safetensors")
    unload()
load(base)
figures["untouched at last"] = same(state(base), before)

##### Sensitivity

conditioning = [[context("03"), {}]]
latent = {"samples": torch.zeros(2, 128, 4, 4)}
known, text = call(
    "MeasureSensitivity", model=base, positive=conditioning, negative=conditioning, latent=latent, steps=1, seed=3,
    groups="block",
)  # fmt: skip
figures["factors"] = {name: known[name].factor for name in known}
figures["sensitivity"] = text
model, text = quantized("budget", known, budget="6 bits", formats="nvfp4,int8")
figures["measured"] = text

##### Steps in high precision

write_fp8("steps.safetensors", marked=True)


def by_gemm(steps: str) -> torch.Tensor:
    model = fp8("steps.safetensors")[0]
    return run(
        call(
            "ScaledLinearPatch", model=model, compute="scaled_mm", activation_scale="dynamic", layers=".*",
            scales_from="none", high_precision_steps=steps,
        )[0]
    )  # fmt: skip


upcast = run(fp8("steps.safetensors", compute="upcast")[0])
figures["steps"] = {steps: error(by_gemm(steps), upcast) for steps in ("", "first 1", "last 1", "first 1, last 1")}
figures["steps refused"] = refusal(
    "ScaledLinearPatch", model=base, compute="auto", activation_scale="dynamic", layers=".*", scales_from="none",
    high_precision_steps="first two",
)  # fmt: skip

##### Refusals

tensors = load_file(FOLDER / "digits.safetensors")
header = {"scaled_fp8_calibration": '{"version": 1, "steps": 1, "prompts": 1}'}
save_file(tensors | {"double_blocks.0.img_attn.qkv.sample": torch.randn(64)}, FOLDER / "other.safetensors", header)
save_file({k: v for k, v in tensors.items() if k.startswith("x")}, FOLDER / "empty.safetensors", header)
(FOLDER / "damaged.safetensors").write_bytes((FOLDER / "digits.safetensors").read_bytes()[:5000])


REFUSED = {"model": base, "granularity": "per-tensor", "keep": ""}


def of(name: str) -> str:
    try:
        known = call("LoadCalibration", name=name)[0]
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return refusal("QuantizeModel", **REFUSED, method="nvfp4", calibration=known)


figures["refusals"] = {name: of(name) for name in ("other", "damaged", "absent")}
for budget in ("2 bits", "100 bits", "seven"):
    inputs = {"method": "budget", "budget": budget, "formats": "int8,float8_e4m3fn"}
    figures["refusals"][budget] = refusal("QuantizeModel", **REFUSED, **inputs)
answer(figures)
