"""Nodes that no walk has, each with one input after another, a LoRA before it or behind it: beside a fresh ComfyUI."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from itertools import product

import torch
from alphabet import FP8_ENCODERS, LTX, applied, write_files
from inside import (
    BASE,
    BF16,
    FEW_TOKENS,
    REQUEST,
    answer,
    call,
    context,
    extra,
    fp8,
    identical,
    pack,
    sample,
    unet,
    unload,
)
from running import conditioning

torch.set_num_threads(1)
pack()
extra("nodes_lora_debug.py")
write_files()
# a few layers, so that a change takes as long as one
KEEP = r"single_blocks|double_blocks\.[1-9]|txt|modulation|img_mlp"
DIGIT = "3"
PROMPT = {"positive": [[context(DIGIT), {}]], "negative": [[context(DIGIT), {}]]}
LATENT = {"samples": torch.zeros(1, 128, 4, 4)}
HOW = {**PROMPT, "latent": LATENT, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
MERGED, BESIDE = ("LoraLoaderModelOnly", 1.0), ("LoraLoaderBypassModelOnly", 1.0)
chance = random.Random(9)


def latents(model) -> torch.Tensor:
    return sample(model, 2, DIGIT)


def quantized(model, method: str = "budget", **inputs):
    return call("QuantizeModel", model=model, method=method, granularity="default", keep=KEEP, **inputs)[0]


def watched(model, **inputs):
    return call("CalibrateModel", model=model, **inputs)[0]


def calibration_of(model) -> torch.Tensor:
    """Sums of what each layer was fed, of a sampling."""
    latents(model)
    known = call("SaveCalibration", model=model)[0]
    return torch.cat([part.flatten() for name in sorted(known) for part in known[name].moments.squares])


def known(model):
    """A calibration of the model as it stands."""
    watching = watched(model, name="known", memory_gb=1.0)
    latents(watching)
    return call("SaveCalibration", model=watching)[0]


def calibrated(model, budget: str):
    return quantized(model, budget=budget, formats="nvfp4,int8", calibration=known(model))


def by_steps(model, **inputs):
    return call(
        "ScaledLinearPatch", model=model, activation_scale="dynamic", layers=FEW_TOKENS, scales_from="none", **inputs
    )[0]  # fmt: skip


def factors(model, **inputs) -> torch.Tensor:
    found = call("MeasureSensitivity", model=model, groups="block", **{**HOW, **inputs})[0]
    return torch.tensor([found[name].factor or 0.0 for name in sorted(found)], dtype=torch.float64)


def compared(model, **inputs) -> torch.Tensor:
    """Both pictures' latents as Compare Models gives them, by its figures that are no times."""
    other = quantized(model, "int8")
    report = call("CompareModels", model_a=model, model_b=other, **{**HOW, **inputs})[3]
    (line,) = (line for line in report.splitlines() if "Latent error" in line)
    errors = other.get_attachment("scaled_fp8_errors") or {}
    said = [line, *(f"{name} {error}" for name, error in sorted(errors.items()))]
    return torch.tensor(list("\n".join(said).encode()), dtype=torch.uint8)


def encoder(given, **inputs):
    return call("LoadFP8TextEncoder", text_encoder=FP8_ENCODERS["ltx"], type="stable_diffusion", **inputs)[0]


def checkpoint(given, **inputs):
    return fp8(LTX, **inputs)[0]


def encoded(clip) -> torch.Tensor:
    return conditioning(clip, "loaded", "38")


Change = dict[str, object]
# node -> what it makes of a model, what is looked at, its inputs one after another
NODES: dict[str, tuple[Callable, Callable, list[Change]]] = {
    "Quantize Model, a budget": (quantized, latents, [
        {"budget": "9 bits", "formats": "int8,float8_e4m3fn"}, {"budget": "7 bits", "formats": "nvfp4,int8"},
        {"budget": "error 0.02", "formats": "nvfp4,int8"},
    ]),
    "Quantize Model, calibrated": (calibrated, latents, [{"budget": "7 bits"}, {"budget": "5 bits"}]),
    "Scaled Linear Patch, steps": (by_steps, latents, [
        {"compute": "int8", "high_precision_steps": ""}, {"compute": "int8", "high_precision_steps": "first 1"},
        {"compute": "scaled_mm", "high_precision_steps": "last 1"}, {"compute": "upcast"},
    ]),
    "Calibrate Model, Save Calibration": (watched, calibration_of, [
        {"name": "one", "memory_gb": 1.0}, {"name": "two", "memory_gb": 0.02},
    ]),
    "Measure Sensitivity": (lambda model, **inputs: (model, inputs), lambda given: factors(given[0], **given[1]), [
        {"seed": 1, "steps": 1}, {"seed": 2, "steps": 1}, {"seed": 1, "steps": 2},
    ]),
    "Compare Models": (lambda model, **inputs: (model, inputs), lambda given: compared(given[0], **given[1]), [
        {"seed": 1, "steps": 1, "images": 1, "attribute": "always"},
        {"seed": 2, "steps": 1, "images": 2, "attribute": "never"},
    ]),
    "Load FP8 Checkpoint": (checkpoint, latents, [
        {"compute": "auto"}, {"compute": "int8"}, {"compute": "auto", "activation_scale": "dynamic-per-tensor"},
        {"compute": "int8", "activation_scale": "static"},
    ]),
    "Load FP8 Text Encoder": (encoder, encoded, [
        {"compute": "upcast"}, {"compute": "auto"}, {"compute": "int8"}, {"compute": "auto", "device": "cpu"},
    ]),
}  # fmt: skip
LOADERS = ("Load FP8 Checkpoint", "Load FP8 Text Encoder")
FP8_FIRST = ("Scaled Linear Patch, steps",)
# a LoRA on what is watched, measured or compared stands before the node: behind it is the node's own output
BEFORE_ONLY = ("Measure Sensitivity", "Compare Models", "Calibrate Model, Save Calibration")
State = tuple[int, str, tuple | None]


def states(node: str) -> Iterator[State]:
    """Which inputs, and where which LoRA is."""
    places = ["behind"] if node in LOADERS else ["before"] if node in BEFORE_ONLY else ["before", "behind"]
    loras = [("LoraLoader", 1.0)] if node == "Load FP8 Text Encoder" else [MERGED, BESIDE]
    numbers = range(len(NODES[node][2]))
    yield from ((number, "", None) for number in numbers)
    yield from product(numbers, places, loras)


def base_of(node: str):
    if node in LOADERS:
        return None
    return fp8(LTX)[0] if node in FP8_FIRST else unet(BF16)


def outcome(node: str, state: State, base) -> torch.Tensor | str:
    # what is watched under a name adds up in its file
    shutil.rmtree(BASE / "models" / "scaled_fp8", ignore_errors=True)
    make, look, changes = NODES[node]
    number, place, lora = state
    try:
        given = applied(base, lora, ("",)) if place == "before" else base
        made = make(given, **changes[number])
        return look(applied(made, lora, ("",)) if place == "behind" else made)
    except Exception as problem:
        if type(problem).__name__ != "Refused":
            raise RuntimeError(f"{node} {state}") from problem
        return str(problem)


def alike(a, b) -> bool:
    return a == b if isinstance(a, str) or isinstance(b, str) else identical(a, b)


def differences(node: str) -> dict[str, object]:
    """Each state after another on one base, then each from a model of its own."""
    asked = list(states(node))
    asked = [*asked, *chance.sample(asked, len(asked))]
    base, found = base_of(node), []
    for state in asked:
        found.append(outcome(node, state, base))
    fresh = {}
    for state in dict.fromkeys(asked):
        unload()
        fresh[state] = outcome(node, state, base_of(node))
    unload()
    wrong = [str(state) for state, got in zip(asked, found, strict=True) if not alike(got, fresh[state])]
    refused = sorted({got for got in found if isinstance(got, str)})
    several = len({got.numpy().tobytes() for got in found if torch.is_tensor(got)})
    return {"states": len(fresh), "wrong": wrong, "refused": refused, "outcomes": several}


answer({node: differences(node) for node in NODES if node in REQUEST.get("nodes", NODES)})
