"""Quantize Model for a budget: what it costs the image, what is saved, what the panel is told, what is refused."""

from __future__ import annotations

import importlib
import shutil
import sys
from functools import partial
from pathlib import Path

import comfy.model_management as management
import torch
from inside import (
    BASE,
    BF16,
    REQUEST,
    answer,
    call,
    context,
    error,
    load,
    pack,
    refused,
    same,
    sample,
    save_file,
    state,
    unet,
)

pack()
STEPS, DIGITS, SEEN = 1, "03", 100
# a few layers, so that a test takes as long as one
KEEP = r"single_blocks|double_blocks\.[1-9]|txt|modulation"
shutil.rmtree(BASE / "models" / "scaled_fp8", ignore_errors=True)
base = unet(BF16)


def run(model, seed: int = 7) -> torch.Tensor:
    return sample(model, STEPS, DIGITS, seed)


def quantized(method: str = "budget", granularity: str = "default", **more):
    return call("QuantizeModel", model=base, method=method, granularity=granularity, keep=KEEP, **more)


def saved(model, name: str) -> str:
    """Written by SaveQuantizedModel and put where the loaders look; its name."""
    call("SaveQuantizedModel", model=model, filename_prefix=f"diffusion_models/{name}")
    written = sorted((BASE / "output" / "diffusion_models").glob(f"{name}_*.safetensors"))[-1]
    written.rename(BASE / "models" / "diffusion_models" / f"{name}.safetensors")
    return f"{name}.safetensors"


def module(name: str):
    """One of the pack's, which ComfyUI loads by a path."""
    return importlib.import_module(next(known for known in sys.modules if known.endswith(f"scaled-fp8.nodes.{name}")))


class Broken(torch.nn.Module):
    """A layer of a device that computes something else."""

    def __init__(self, *given) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(-1)


before, want = state(base), run(base)
watching = call("CalibrateModel", model=base, name="budget")[0]
run(watching, SEEN)
known = call("SaveCalibration", model=watching)[0]

figures: dict = {"files": {}, "errors": {}, "reports": {}, "bytes": {}}
UNIFORM = {"nvfp4": ("nvfp4", {}), "nvfp4 calibrated": ("nvfp4", {"calibration": known})}
BUDGETS = {
    "7 bits": {"budget": "7 bits", "formats": "nvfp4,int8,float8_e4m3fn", "calibration": known},
    "5 bits": {"budget": "5 bits", "formats": "nvfp4, int8", "calibration": known},
    "no data": {"budget": "7 bits", "formats": "nvfp4,int8"},
}


def note(name: str, model, report: str) -> None:
    latents = run(model)
    figures["errors"][name] = error(latents, want)
    figures["reports"][name] = report
    figures["bytes"][name] = model.model_size()
    save_file({"latents": latents}, Path(REQUEST["latents"]) / f"budget-{name}.safetensors")


for name, (method, more) in UNIFORM.items():
    note(name, *quantized(method, **more))
for name, more in BUDGETS.items():
    model, report = quantized(**more)
    note(name, model, report)
    figures["files"][saved(model, f"budget-{name}")] = name

##### Predicted beside measured

conditioning = [[context(DIGITS), {}]]
compared = call(
    "CompareModels", model_a=base, model_b=model, positive=conditioning, negative=conditioning,
    latent={"samples": torch.zeros(len(DIGITS), 128, 4, 4)}, seed=7, steps=STEPS, cfg=1.0, sampler_name="euler",
    scheduler="simple", images=1,
)  # fmt: skip
figures["compared"] = [compared[-1], module("host.budget").plan_of(model).error, error(run(model), want)]

##### A size and an error; every format that core loads, where none is named

figures["reports"]["by rows"] = quantized(granularity="per-row", budget="9 bits", formats="int8")[1]
figures["reports"]["error"] = quantized(budget="error 0.001", formats="int8")[1]
size = base.model_size() - 200_000
model, figures["reports"]["size"] = quantized(budget=f"{size / 1e6:.3f} MB", formats="int8")
figures["size"] = [model.model_size(), size]

##### What the panel is told, and the curve

told = module("panel.runs").run_of(model).to_json()
figures["told"], figures["curve"] = told["layers"], told["curve"]
figures["predicted"] = module("host.budget").plan_of(model).error
figures["pictures"] = [path.name for path in (BASE / "temp").glob("scaled_fp8_curve*.png")]

##### Cancelled in the middle of planning, of quantizing and of saving


def cancelled(at: int, work, **inputs) -> str:
    """What is raised where somebody cancels when ComfyUI is asked for the at-th time."""
    asked, plain = [], management.throw_exception_if_processing_interrupted

    def check() -> None:
        asked.append(1)
        if len(asked) == at:
            raise management.InterruptProcessingException
        plain()

    management.throw_exception_if_processing_interrupted = check
    try:
        return refused(work, **inputs)
    finally:
        management.throw_exception_if_processing_interrupted = plain


planned = module("host.budget").plan_of(model)
layers = len(list(module("host.plan").linears(base)))
few = {"budget": "9 bits", "formats": "int8"}
figures["cancelled"] = [
    *(cancelled(at, quantized, **few) for at in (2, layers + 2)),
    cancelled(3, partial(call, "SaveQuantizedModel"), model=model, filename_prefix="cancelled"),
]
figures["left"] = [path.name for path in (BASE / "output").rglob("*cancelled*")]
figures["still planned"] = module("host.budget").plan_of(model) is planned is not None

##### Formats that a device computes wrong are left out, where nobody names them

proof = module("host.proof")
USUAL = list(proof.PlanRequest("7 bits").policies(None))
place = (base.load_device, torch.bfloat16)
figures["works"] = {p.format.name: proof.problem(p.format, p.granularity, *place) for p in USUAL}
proof.problem.cache_clear()
proof.own_core_linear = Broken
figures["reports"]["left out"] = quantized(budget="9 bits")[1]

##### Refusals

for budget, formats in (
    ("2 bits", "int8"), ("100 bits", "int8"), ("1 KB", "int8"), ("9 GB", "int8"), ("error 7", "int8"),
    ("seven", "int8"), ("7 bits", "int9"),
):  # fmt: skip
    figures.setdefault("refusals", {})[f"{budget} {formats}"] = refused(quantized, budget=budget, formats=formats)
load(base)
figures["untouched"] = same(state(base), before)
answer(figures)
