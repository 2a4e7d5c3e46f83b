"""A user who changes things and runs again: each state of a random walk beside the same state in a fresh ComfyUI."""

from __future__ import annotations

import random
from collections import Counter

import card
import torch
from inside import (
    BF16,
    CPU,
    FEW_TOKENS,
    REQUEST,
    answer,
    call,
    extra,
    identical,
    load,
    pack,
    patched,
    predict,
    unet,
    unload,
    write_fp8,
    write_lora,
)

pack()
extra("nodes_lora_debug.py")
LTX = "walk-ltx.safetensors"
write_fp8(LTX, marked=False)
write_lora("walk-lora.safetensors", strength=1.0)
if REQUEST["dynamic"]:
    card.insert()
chance = random.Random(REQUEST["seed"])

# A state: a file, then what stands between its loader and the sampler, in order; each part with all that it can be.
QUANTIZE = [
    ("quantize", method, granularity, keep)
    for method, granularity in (("fp8-dynamic", "per-row"), ("fp8-dynamic", "block"), ("int8", "per-tensor"),
                                ("int8-convrot", "per-row"), ("nvfp4", "per-tensor"))
    for keep in ("", "single_blocks")
]  # fmt: skip
LORA = [(way, strength) for way in ("LoraLoaderModelOnly", "LoraLoaderBypassModelOnly") for strength in (1.0, -0.5)]
PATCH = [("patch", compute, layers) for compute in ("upcast", "int8") for layers in (".*", "double_blocks")]
PATCH.append(("patch", "scaled_mm", FEW_TOKENS))
# what stands behind which file, with how often it is changed: the rest is mostly refused
PARTS = {BF16: ((QUANTIZE, LORA, PATCH), (4, 4, 1)), LTX: ((QUANTIZE, LORA, PATCH), (1, 4, 6))}
REGIMES = ("loaded", "evicted") if REQUEST["dynamic"] else ("loaded", "lowvram")


def applied(model, node: tuple, file: str):
    kind, *inputs = node
    if kind == "quantize":
        method, granularity, keep = inputs
        return call("QuantizeModel", model=model, method=method, granularity=granularity, keep=keep)[0]
    if kind == "patch":
        scales = f"diffusion_models/{LTX}" if file == LTX else "none"
        return patched(model, compute=inputs[0], layers=inputs[1], scales_from=scales)[0]
    return call(kind, model=model, lora_name="walk-lora.safetensors", strength_model=inputs[0])[0]


def built(root, file: str, chain: tuple, cache: dict):
    """The model at the end of a chain; like ComfyUI's own cache, only nodes behind a change run again."""
    for name in [name for name in cache if chain[: len(name)] != name]:
        del cache[name]
    model = root
    for length in range(1, len(chain) + 1):
        if chain[:length] not in cache:
            cache[chain[:length]] = applied(model, chain[length - 1], file)
        model = cache[chain[:length]]
    return model


def run(model, regime: str, seed: int) -> torch.Tensor:
    if regime == "lowvram":
        return cast_at_use(model, seed)
    load(model)
    if regime == "evicted":
        model.partially_unload(CPU, 1e32)
        load(model)
    return predict(model, seed)


def cast_at_use(model, seed: int) -> torch.Tensor:
    unload()
    model.patch_model(CPU, lowvram_model_memory=1)
    try:
        return predict(model, seed)
    finally:
        model.unpatch_model(CPU)


def outcome(make, regime: str, seed: int) -> torch.Tensor | str:
    """What comes out, or what a node says."""
    try:
        return run(make(), regime, seed)
    except Exception as problem:
        if type(problem).__name__ != "Refused":
            raise
        return str(problem)


fresh_outcomes: dict[tuple, torch.Tensor | str] = {}


def fresh(file: str, chain: tuple, regime: str, seed: int) -> torch.Tensor | str:
    """The same in a ComfyUI that has loaded nothing else, from a model of its own."""
    key = (file, chain, regime, seed)
    if key not in fresh_outcomes:
        unload()
        fresh_outcomes[key] = outcome(lambda: built(unet(file), file, chain, {}), regime, seed)
        unload()
    return fresh_outcomes[key]


def changed(file: str, parts: list) -> list:
    """One node put in, taken out or given another input; or two nodes in the other order."""
    if len(parts) > 1 and chance.random() < 0.2:
        return parts[::-1]
    choices = chance.choices(*PARTS[file])[0]
    left = [part for part in parts if part not in choices]
    # what is refused is soon taken out again
    refused = choices == QUANTIZE and file == LTX or choices == PATCH and file == BF16
    if len(left) < len(parts) and chance.random() < (0.8 if refused else 0.3):
        return left
    left.insert(chance.randint(0, len(left)), chance.choice(choices))
    return left


def alike(a: torch.Tensor | str, b: torch.Tensor | str) -> bool:
    return a == b if isinstance(a, str) or isinstance(b, str) else identical(a, b)


class Walk:
    """The ComfyUI of the user who changes things; outcomes: every state there was, with what came out."""

    def __init__(self) -> None:
        self.roots = {file: unet(file) for file in (BF16, LTX)}
        self.chains: dict[str, list] = {BF16: [], LTX: []}
        self.caches: dict[str, dict] = {BF16: {}, LTX: {}}
        self.file, self.outcomes = BF16, []

    def step(self) -> None:
        if chance.random() < 0.2:
            self.file = chance.choice((BF16, LTX))
        if chance.random() < 0.85:
            self.chains[self.file] = changed(self.file, self.chains[self.file])
        if chance.random() < 0.1:
            unload()
        state = (self.file, tuple(self.chains[self.file]), chance.choice(REGIMES), chance.choice((7, 8)))
        self.outcomes.append((state, outcome(self.model, *state[2:])))

    def model(self):
        return built(self.roots[self.file], self.file, tuple(self.chains[self.file]), self.caches[self.file])


walk = Walk()
for _ in range(REQUEST["steps"]):
    walk.step()
wrong = [(step, *state) for step, (state, got) in enumerate(walk.outcomes) if not alike(got, fresh(*state))]
counts = Counter("refused" if isinstance(got, str) else "ran" for _, got in walk.outcomes)
answer({"counts": counts, "states": len(fresh_outcomes), "wrong": wrong[:20], "differences": len(wrong)})
