"""A long random walk over everything a MODEL can be put through; then every tensor must be as at the start."""

from __future__ import annotations

import random

import comfy.sd
import comfy.utils
import folder_paths
import torch
from inside import (  # fmt: skip
    CPU,
    FEW_TOKENS,
    REQUEST,
    answer,
    forward,
    fp8,
    identical,
    pack,
    patched,
    predict,
    same,
    state,
    unet,
    unload,
    write_fp8,
    write_lora,
)

pack()
write_fp8("moves-ltx.safetensors", marked=False)
write_lora("moves-lora.safetensors", strength=0.2, rank=2)
FILE = "diffusion_models/moves-ltx.safetensors"
LORA = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("loras", "moves-lora.safetensors"))
chance = random.Random(REQUEST["seed"])
roots = [fp8("moves-ltx.safetensors")[0], unet("moves-ltx.safetensors"), unet("digits-flux2-bf16.safetensors")]
starts = [(state(root), forward(root)) for root in roots]
unload()
pool = list(roots)


def grown(model):
    """A new model into the pool, which holds few so that old ones are forgotten."""
    if len(pool) >= 9:
        pool.pop(chance.randrange(len(roots), len(pool)))
    pool.append(model)
    return model


def clone(model):
    grown(model.clone())


def patch(model):
    compute = chance.choice(("auto", "upcast", "scaled_mm", "int8"))
    layers = FEW_TOKENS if compute == "scaled_mm" else chance.choice((".*", "single_blocks", "qkv|linear1"))
    grown(patched(model, compute, chance.choice(("dynamic", "static")), layers, FILE)[0])


def merged(model):
    grown(comfy.sd.load_lora_for_models(model, None, LORA, chance.uniform(-1, 1), 0)[0])


def beside(model):
    # core takes two of them off in the order it put them on, which leaves the second for ever
    model = roots[0] if "bypass_lora" in model.injections else model
    grown(comfy.sd.load_bypass_lora_for_models(model, None, LORA, chance.uniform(-1, 1), 0)[0])


def load_fully(model):
    comfy.model_management.load_models_gpu([model])


def lowvram(model):
    unload()
    model.patch_model(CPU, lowvram_model_memory=chance.choice((1, 2_000_000, 5_000_000)))
    if chance.random() < 0.5:
        model.partially_unload(CPU, chance.choice((500_000, 3_000_000)))
    if chance.random() < 0.3:
        model.partially_load(CPU, chance.choice((1_000_000, 100_000_000)))
    if chance.random() < 0.1:
        predict(model)
    model.detach()


def run(model):
    forward(model)


def load_again(model):
    """Loaded, and perhaps asked to load again, as each run of a loaded model does."""
    unload()
    model.patch_model(CPU)
    if chance.random() < 0.5:
        model.partially_load(CPU, 1_000_000_000)
    model.detach()


def compute_dtype(model):
    grown(model.clone()).set_model_compute_dtype(chance.choice((torch.float16, torch.bfloat16, torch.float32)))


def unpatch(model):
    unload()


MOVES = {clone: 3, patch: 3, merged: 3, beside: 3, load_fully: 3, lowvram: 3, run: 1, load_again: 2, compute_dtype: 2,
         unpatch: 2}  # fmt: skip
counts: dict[str, int] = {}
for _ in range(REQUEST["steps"]):
    move = chance.choices(list(MOVES), list(MOVES.values()))[0]
    counts[move.__name__] = counts.get(move.__name__, 0) + 1
    move(chance.choice(pool))
unload()
figures = {
    "counts": counts,
    "states": [same(state(root), start) for root, (start, _) in zip(roots, starts, strict=True)],
}
figures["outputs"] = [identical(forward(root), out) for root, (_, out) in zip(roots, starts, strict=True)]
answer(figures)
