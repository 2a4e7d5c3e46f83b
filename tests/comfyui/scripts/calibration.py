"""A model that watches what its layers are fed: what it changes, what it adds up, what it leaves behind."""

from __future__ import annotations

import importlib
import re
import shutil
import sys

import comfy.model_management
import torch
from inside import (
    BASE,
    BF16,
    answer,
    call,
    extra,
    fp8,
    identical,
    pack,
    patched,
    refused,
    same,
    sample,
    save_file,
    state,
    unet,
    write_fp8,
    write_lora,
)
from safetensors.torch import load_file

pack()
extra("nodes_lora_debug.py")
FOLDER = BASE / "models" / "scaled_fp8"
LAYER = "double_blocks.0.img_attn.qkv"
shutil.rmtree(FOLDER, ignore_errors=True)
base = unet(BF16)


def run(model, seed: int = 100) -> torch.Tensor:
    return sample(model, 1, "03", seed)


def watching(model, name: str = "digits", memory_gb: float = 0.0, sensitivity: bool = False):
    return call("CalibrateModel", model=model, name=name, memory_gb=memory_gb, sensitivity=sensitivity)[0]


def save(model):
    return call("SaveCalibration", model=model)


def hooks(model) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.model.modules())


##### The same image, and sums of what was fed

before, want = state(base), run(base)
watched = watching(base)
figures = {"same": {"bf16": identical(run(watched), want)}, "not watched": refused(save, base)}
weight = base.get_model_object(f"diffusion_model.{LAYER}.weight").data
fed = []
hook = base.model.diffusion_model.get_submodule(LAYER).register_forward_pre_hook(lambda m, x: fed.append(x[0]))
first, figures["report"] = save(watched)
run(base)
hook.remove()
rows = torch.cat([x.reshape(-1, x.shape[-1]) for x in fed]).double()
record = first[LAYER]
squares = record.moments.squares[0]
# one call of fewer rows than are compared, each of which counts one over how many are like it
assert len(fed) == 1 and len(rows) <= 512
like = torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(rows, dim=1).T
shares = 1 / (like**8).sum(1, keepdim=True).clamp(min=1)
exact = rows.T @ (rows * shares / shares.mean())
figures["moments"] = float((squares.double() - exact).norm() / exact.norm())
figures["amax"] = float(record.moments.amax) == float(rows.abs().max())
figures["rows"] = [record.moments.rows, len(rows)]
figures["dtype"] = str(squares.dtype)
figures["nothing new"] = refused(save, watched)
run(watched, 101)
added = save(watched)[0]
figures["steps"] = [first.facts.steps, added.facts.steps]
figures["prompts"] = [first.facts.prompts, added.facts.prompts]
figures["added rows"] = added[LAYER].moments.rows
loaded, figures["loaded"] = call("LoadCalibration", name="digits")
figures["loaded steps"] = loaded.facts.steps

##### One image of four is held out, with and without its prompt; of fewer none

figures["held out"] = {}
for digits in ("0123", "03"):
    guided = watching(base, f"guided {digits}")
    sample(guided, 1, digits, 7, 4.0)
    moments = save(guided)[0][LAYER].moments
    figures["held out"][digits] = [moments.rows, moments.held_out is not None]

##### How much each layer matters, in passing, beside models of which one layer is quantized

LAYERS = (LAYER, "double_blocks.0.img_mlp.2", "single_blocks.0.linear1", "single_blocks.2.linear2")


def drawn(model, steps: int = 3, seed: int = 100) -> torch.Tensor:
    return sample(model, steps, "0123", seed)


sensed, calls = watching(base, "sensed", sensitivity=True), []
sensed.add_wrapper("apply_model", lambda executor, *args, **kwargs: (calls.append(1), executor(*args, **kwargs))[1])
sketch = drawn(base)
figures["same"]["with sensitivity"] = identical(drawn(sensed), sketch)
told, figures["sensed"] = save(sensed)
figures["calls"] = [len(calls)]
drawn(sensed)
figures["calls"].append(len(calls))
figures["factors"] = sum(told[name].factor is not None for name in told)
figures["predicted"] = {}
unseen = drawn(base, seed=101)
for layer in LAYERS:
    keep = "|".join(re.escape(name) for name in told if name != layer)
    alone, _ = call(
        "QuantizeModel", model=base, method="budget", granularity="default", keep=keep, budget="5 bits",
        formats="nvfp4", calibration=told,
    )  # fmt: skip
    measured = float((drawn(alone, seed=101) - unseen).norm() / unseen.norm())
    figures["predicted"][layer] = alone.get_attachment("scaled_fp8_plan")[1].error / measured
figures["same"]["after it"] = identical(drawn(base), sketch)
figures["hooks after it"] = hooks(base)

##### Without memory for it the image is not lost


def too_large(*args):
    raise torch.OutOfMemoryError("no room")


poor = watching(base, "poor", sensitivity=True)
shares = importlib.import_module(next(name for name in sys.modules if name.endswith("scaled-fp8.nodes.host.shares")))
shares.fed, rounding = too_large, shares.fed
figures["same"]["without memory for sensitivity"] = identical(drawn(poor), sketch)
shares.fed = rounding
seen = save(poor)[0]
figures["without memory"] = [
    seen.facts.steps,
    list(seen) == list(told),
    sum(seen[name].factor is not None for name in seen),
]

##### Under LoRAs, patches and other quantizations; what quantizes drops the watch

write_lora("calibration-lora.safetensors", 0.5)
for way, node in (("merged", "LoraLoaderModelOnly"), ("bypass", "LoraLoaderBypassModelOnly")):
    with_lora = [
        call(node, model=model, lora_name="calibration-lora.safetensors", strength_model=1.0)[0]
        for model in (base, watching(base, way))
    ]
    figures["same"][way] = identical(*(run(model) for model in with_lora))
    kept = save(with_lora[1])[0]
    figures["same"][f"{way}, the weight known is the model's own"] = identical(kept[LAYER].sample, record.sample)
write_fp8("calibration-fp8.safetensors", marked=True)
others = {
    "fp8": fp8("calibration-fp8.safetensors")[0],
    "scaled patch": patched(unet("calibration-fp8.safetensors"))[0],
    "nvfp4 of core": call("QuantizeModel", model=base, method="nvfp4", granularity="default", keep="single|txt")[0],
}
for name, model in others.items():
    own = watching(model, name)
    figures["same"][name] = identical(run(own), run(model)) and save(own)[0].facts.steps == 1
quantized = call("QuantizeModel", model=watched, method="int8", granularity="default", keep="")[0]
run(quantized)
figures["of a quantized clone"] = refused(save, watched)
small = watching(base, "blocks", 0.012)
run(small)
kept, figures["blocks"] = save(small)
figures["bytes"] = sum(kept[name].moments.squares.nbytes for name in kept)

##### Stopped in the middle, and what comes after it

stopped = watching(base, "stopped")
calls = []


def stop(executor, *args, **kwargs):
    executor(*args, **kwargs)
    calls.append(1)
    raise comfy.model_management.InterruptProcessingException


stopping = stopped.clone()
stopping.add_wrapper("apply_model", stop)
figures["stopped"] = refused(run, stopping)
figures["ran"] = len(calls)
figures["hooks"] = hooks(base)
figures["after stopping"] = refused(save, stopped)
figures["left"] = sorted(path.name for path in FOLDER.glob("*stopped*"))
run(stopped)
figures["again"] = save(stopped)[0].facts.steps
figures["untouched"] = same(state(base), before) and identical(run(base), want)

##### Refusals, none of which changes a file

whole = (FOLDER / "digits.safetensors").read_bytes()
broken = watching(base)
poison = broken.clone()
poison.add_wrapper("apply_model", lambda executor, x, *args, **kwargs: executor(x * float("nan"), *args, **kwargs))
run(poison)
figures["refusals"] = {
    "NaN": refused(save, broken),
    "name": refused(watching, base, "../digits"),
    "compiled": "",
    "memory": refused(watching, base, "blocks", 0.001),
    "memory below zero": refused(watching, base, "blocks", -1.0),
    "absent": refused(call, "LoadCalibration", name="absent"),
}
tensors = load_file(FOLDER / "digits.safetensors")
header = {"scaled_fp8_calibration": '{"version": 1, "steps": 1, "prompts": 1}'}
LINES = {
    "another model": tensors | {f"{LAYER}.sample": torch.randn(64)},
    "other shapes": tensors | {f"{LAYER}.shape": torch.tensor([7, tensors[f"{LAYER}.shape"][1]])},
    "unknown layers": {f"x.{key}": tensor for key, tensor in tensors.items()},
    "with NaN": tensors | {f"{LAYER}.squares": tensors[f"{LAYER}.squares"] * float("nan")},
}
for name, found in LINES.items():
    save_file(found, FOLDER / f"{name}.safetensors", header)
(FOLDER / "damaged.safetensors").write_bytes(whole[:5000])
save_file(tensors, FOLDER / "no calibration.safetensors")


def quantize_by(name: str) -> None:
    known = call("LoadCalibration", name=name)[0]
    call("QuantizeModel", model=base, method="nvfp4", granularity="default", keep="single|txt", calibration=known)


for name in (*LINES, "damaged", "no calibration"):
    figures["refusals"][name] = refused(quantize_by, name)
compiling = watched.clone()
compiling.model_options["torch_compile_kwargs"] = {}
figures["refusals"]["compiled"] = refused(run, compiling)
figures["whole"] = (FOLDER / "digits.safetensors").read_bytes() == whole
answer(figures)
