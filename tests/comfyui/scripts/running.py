"""How a user runs a MODEL, a CLIP or a VAE: loaded, evicted or cast at use, or saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from inside import BASE, CPU, REQUEST, call, load, predict, unload
from safetensors.torch import load_file

RUNS = ("loaded", "evicted" if REQUEST["dynamic"] else "lowvram", "saved")
START, END, LENGTH = 49406, 49407, 77  # CLIP-L's own tokens, and how many there are in each prompt
OURS = "PatcherCLIP"  # core's own drops LoRAs in low VRAM: test_low_vram_encoder.py


def run(given, way: str, digits: str, seed: int) -> torch.Tensor:
    """The velocity of one forward, a picture or a conditioning; what a file holds as the hash of its tensors."""
    if hasattr(given, "cond_stage_model"):
        return conditioning(given, way, digits)
    if hasattr(given, "decode"):
        return decoded(given, seed)
    if way == "saved":
        return saved(given)
    if way == "lowvram":
        return cast_at_use(given, digits, seed)
    load(given)
    if way == "evicted":
        given.partially_unload(CPU, 1e32)
        load(given)
    return predict(given, seed, wrapped=True, digits=digits)


def decoded(vae, seed: int) -> torch.Tensor:
    latent = torch.randn(1, 128, 4, 4, generator=torch.Generator().manual_seed(seed))
    return call("VAEDecode", vae=vae, samples={"samples": latent})[0].float()


def conditioning(clip, way: str, digits: str) -> torch.Tensor:
    """Of a prompt of these digits, with what is pooled of it behind."""
    prompt = (START, *map(int, digits))
    tokens = {"l": [[(token, 1.0) for token in (*prompt, *[END] * (LENGTH - len(prompt)))]]}
    if way == "evicted":
        load(clip.patcher)
        clip.patcher.partially_unload(CPU, 1e32)
    low = way == "lowvram" and type(clip).__name__ == OURS
    with cast_at_each_use(clip) if low else nullcontext():
        found = clip.encode_from_tokens(tokens, return_pooled=True)
    return torch.cat([part.flatten() for part in found]).float()


@contextmanager
def cast_at_each_use(clip) -> Iterator[None]:
    """Nothing is loaded: each weight is where it is, and cast when it is used."""
    unload()
    clip.patcher.patch_model(CPU, lowvram_model_memory=1)
    clip.load_model = lambda *given: None
    try:
        yield
    finally:
        del clip.load_model
        clip.patcher.unpatch_model(CPU)


def cast_at_use(model, digits: str, seed: int) -> torch.Tensor:
    unload()
    model.patch_model(CPU, lowvram_model_memory=1)
    try:
        return predict(model, seed, wrapped=True, digits=digits)
    finally:
        model.unpatch_model(CPU)


def saved(model) -> torch.Tensor:
    call("SaveQuantizedModel", model=model, filename_prefix="walk/saved")
    (path,) = (BASE / "output" / "walk").glob("*.safetensors")
    tensors = load_file(path)
    path.unlink()
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return torch.tensor(list(hashed.digest()), dtype=torch.uint8)
