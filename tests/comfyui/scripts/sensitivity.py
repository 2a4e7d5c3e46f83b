"""Measure Sensitivity, stopped and resumed, against layers that are really quantized; steps in high precision."""

from __future__ import annotations

import shutil

import comfy.model_management
import torch
from inside import (
    BASE,
    BF16,
    answer,
    call,
    context,
    error,
    extra,
    fp8,
    pack,
    refused,
    same,
    sample,
    state,
    unet,
    write_fp8,
    write_lora,
)

pack()
extra("nodes_lora_debug.py")
FOLDER = BASE / "models" / "scaled_fp8"
shutil.rmtree(FOLDER, ignore_errors=True)
SEED = 3
base = unet(BF16)
conditioning = [[context("0"), {}]]
latent = {"samples": torch.zeros(1, 128, 4, 4)}
HOW = {"positive": conditioning, "negative": conditioning, "latent": latent, "steps": 1, "seed": SEED}


def measure(model=base, **more):
    return call("MeasureSensitivity", model=model, groups="block", **HOW, **more)


def run(model, steps: int = 1, seed: int = SEED) -> torch.Tensor:
    return sample(model, steps, "0", seed)


##### Stopped after two runs, resumed

before, calls = state(base), []


def stop(executor, *args, **kwargs):
    calls.append(1)
    if len(calls) > 3:
        raise comfy.model_management.InterruptProcessingException
    return executor(*args, **kwargs)


stopping = base.clone()
stopping.add_wrapper("apply_model", stop)
figures = {"stopped": refused(measure, stopping)}
figures["left"] = sorted(path.suffix for path in FOLDER.iterdir())
figures["hooks"] = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base.model.modules())
known, figures["report"] = measure()
figures["files"] = sorted(path.suffix for path in FOLDER.iterdir())
figures["twice"] = measure(stopping)[1]
factors = {name: known[name].factor for name in known}
figures["factors"] = factors
figures["untouched"] = same(state(base), before)

##### A factor predicts what quantizing the layer does to the image

ALONE = {"groups": "layer", "calibration": known, **HOW, "seed": SEED + 1}
calls.clear()
LIMIT = 1 + 14 + 2  # the undisturbed run, one a layer, and two formats


def stop_late(executor, *args, **kwargs):
    calls.append(1)
    if len(calls) > LIMIT:
        raise comfy.model_management.InterruptProcessingException
    return executor(*args, **kwargs)


stopping = base.clone()
stopping.add_wrapper("apply_model", stop_late)
figures["stopped late"] = refused(call, "MeasureSensitivity", model=stopping, **ALONE)
figures["left late"] = sorted(path.name.split(".", 1)[1] for path in FOLDER.iterdir())
alone = call("MeasureSensitivity", model=base, **ALONE)
figures["resumed"] = alone[1]
figures["files late"] = sorted(path.name.split(".", 1)[1] for path in FOLDER.iterdir())
figures["levels"] = dict(alone[0].facts.levels)
figures["all layers"] = sum(alone[0][name].factor is not None for name in alone[0])
figures["added to"] = [alone[0].facts.steps, known.facts.steps]
keep = r"single|txt|_in|img_mlp|proj|modulation|final|double_blocks\.[1-9]"  # all but one layer
model, report = call(
    "QuantizeModel", model=base, method="budget", granularity="default", keep=keep, budget="5 bits", formats="nvfp4",
    calibration=alone[0],
)  # fmt: skip
# NVFP4 on a CPU: its activations are not rounded, of which predictions know nothing
figures["predicted"] = model.get_attachment("scaled_fp8_plan")[1].error
# on noise that neither the rounding nor the factor knows
figures["measured"] = error(run(model, seed=SEED + 2), run(base, seed=SEED + 2))
figures["of what"] = report

##### Steps in high precision: chosen steps compute as upcast, the others by GEMM, of the same weights

write_fp8("steps.safetensors", marked=True)
loaded = fp8("steps.safetensors")[0]
IMAGE = "img_mlp|img_attn"


def by_gemm(steps: str, model=loaded):
    return by_steps(steps, model)[0]


def by_steps(steps: str, model=loaded):
    return call(
        "ScaledLinearPatch", model=model, compute="scaled_mm", activation_scale="dynamic", layers=IMAGE,
        scales_from="none", high_precision_steps=steps,
    )  # fmt: skip


upcast = run(fp8("steps.safetensors", compute="upcast")[0], 3)
CHOSEN = ("", "first 1", "last 1", "first 1, last 1", "first 3", " First 2 , last 9 ")
figures["steps"] = {steps: error(run(by_gemm(steps), 3), upcast) for steps in CHOSEN}
# the way of one who changes the input, with a LoRA in between, and goes back
write_lora("steps-lora.safetensors", 0.5)
lora = {"lora_name": "steps-lora.safetensors", "strength_model": 1.0}
run(call("LoraLoaderModelOnly", model=by_gemm("first 3"), **lora)[0])
figures["changed back"] = error(run(by_gemm("", by_gemm("first 3")), 3), upcast) == figures["steps"][""]
figures["said"] = by_steps(" Last 2,first 1")[1].splitlines()[0]
figures["bytes"] = [by_gemm("first 3").model_size(), by_gemm("").model_size()]
figures["refusals"] = {
    text: refused(by_gemm, text) for text in ("first two", "first 1, first 2", "first -1", "middle 1")
}
answer(figures)
