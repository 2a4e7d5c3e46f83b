"""The bytes that dynamic VRAM hands to each layer, in every order of an original and its patches."""

from __future__ import annotations

import gc
from itertools import cycle, islice, permutations

import card
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from inside import (
    BF16,
    FEW_TOKENS,
    REQUEST,
    answer,
    call,
    error,
    extra,
    forward,
    identical,
    pack,
    patched,
    pieces,
    unet,
    unload,
    write_fp8,
    write_lora,
)

pack()
extra("nodes_lora_debug.py")
write_fp8("dynamic-ltx.safetensors", marked=False)
write_lora("dynamic-lora.safetensors", strength=1.0)
FILE = "diffusion_models/dynamic-ltx.safetensors"
want = forward(unet(BF16))
unload()
card.insert()


def quantized(model, method: str, granularity: str = "per-tensor", keep: str = ""):
    return call("QuantizeModel", model=model, method=method, granularity=granularity, keep=keep)[0]


def lora(model, node: str = "LoraLoaderModelOnly"):
    return call(node, model=model, lora_name="dynamic-lora.safetensors", strength_model=1.0)[0]


def streamed(model) -> dict[str, torch.Tensor]:
    """The bytes of every weight and bias of a loaded model as its layers get them on the card."""
    found = {}
    for name, module in model.model.named_modules():
        if not hasattr(module, "comfy_cast_weights") or getattr(module, "weight", None) is None:
            continue
        wish = {"dtype": module.weight.dtype, "bias_dtype": torch.bfloat16, "want_requant": True}
        with comfy.ops.CastBiasWeightContext(module, offloadable=True, compute_dtype=torch.bfloat16, **wish) as got:
            for part, tensor in zip(("weight", "bias"), got, strict=True):
                for piece, value in pieces(tensor) if tensor is not None else ():
                    found[f"{name}.{part}{piece}"] = value.clone()
    return found


ORDERS = permutations


def visit(model) -> dict[str, torch.Tensor]:
    """One run: loaded, every byte, and what the model makes of them."""
    output = forward(model)
    return {**streamed(model), "output": output}


def differences(states: dict, starts: dict) -> dict[str, list[str]]:
    """Order -> the states in it that were not what they are when nothing ran before; none is wanted."""
    wrong = {}
    for order in ORDERS(states):
        for name in order:
            now, start = visit(states[name]), starts[name]
            bad = [key for key in start if key not in now or not identical(now[key], start[key])]
            if bad or now.keys() != start.keys():
                wrong.setdefault(" ".join(order), []).append(f"{name}: {bad[:3]}")
    return wrong


def fresh(make) -> dict[str, torch.Tensor]:
    """A state of a model that nothing else was ever made of."""
    found = visit(make())
    unload()
    return found


def measure(file: str, **makers) -> dict:
    starts = {name: fresh(lambda make=make: make(unet(file))) for name, make in makers.items()}
    root = unet(file)
    states = {name: make(root) for name, make in makers.items()}
    errors = {name: error(start["output"], want) for name, start in starts.items()}
    return {"dynamic": root.is_dynamic(), "errors": errors, "wrong": differences(states, starts)}


def healed(model, **options):
    return patched(model, scales_from=FILE, **options)[0]


def many_changes(count: int) -> dict:
    """Another method again and again: what those before still hold, and whether the last is what it is alone."""
    methods = (("fp8-dynamic", "per-row"), ("int8", "per-tensor"), ("nvfp4", "per-tensor"), ("fp8-dynamic", "block"))
    root = unet(BF16)
    used = []
    for method in islice(cycle(methods), count):
        model = quantized(root, *method)
        output = forward(model)
        used.append(root.model.dynamic_vbars[card.CARD].offset)
    gc.collect()
    own = [m for m in gc.get_objects() if isinstance(m, torch.nn.Linear) and type(m).__name__.startswith("Own")]
    start = fresh(lambda: quantized(unet(BF16), *method))
    return {
        "same": identical(output, start["output"]),
        "used": [used[len(methods)], used[-1]],
        "room": root.model.dynamic_vbars[card.CARD].max_size,
        "holding": sum(m._parameters["weight"] is not None for m in own),
    }


figures = {
    "many changes": many_changes(REQUEST["changes"]),
    "healing": measure(
        "dynamic-ltx.safetensors",
        noise=lambda m: m,
        upcast=lambda m: healed(m, compute="upcast"),
        lora=lambda m: lora(healed(m, compute="scaled_mm", layers=FEW_TOKENS)),
        bypass=lambda m: lora(healed(m), "LoraLoaderBypassModelOnly"),
    ),
    "quantizing": measure(
        BF16,
        original=lambda m: m,
        fp8=lambda m: quantized(m, "fp8-dynamic", "per-row"),
        lora=lambda m: quantized(lora(m), "int8"),
        bypass=lambda m: quantized(lora(m, "LoraLoaderBypassModelOnly"), "int8-convrot", "per-row"),
    ),
    "LoRA without this pack": measure(
        BF16,
        quantized=lambda m: quantized(m, "fp8-dynamic", "per-row", "single"),
        merged=lambda m: lora(m),
        beside=lambda m: lora(m, "LoraLoaderBypassModelOnly"),
        original=lambda m: m,
    ),
}
answer(figures)
