"""Two sound layers with one thing wrong beside them, read from memory; and converted in a folder of other models."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from scaled_fp8.quant import Refused, StateDictSource, read_checkpoint
from scaled_fp8.quant.checkpoint.keys import SUFFIXES
from scaled_fp8.quant.conversion.converter import Options, convert
from scaled_fp8.quant.files.sets import INDEX
from torch import Tensor

torch.set_num_threads(1)
WEIGHTS = {
    name: torch.randn(64, 64, generator=torch.Generator().manual_seed(i)) * 0.03
    for i, name in enumerate(("blocks.0.attn.q", "blocks.0.mlp.fc1"))
}
COMPANIONS = sorted(SUFFIXES)
VALUES = (0.0, 1.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), 3.0)
SHAPES = ((), (1,), (64,), (64, 1), (1, 64), (2, 2), (0,), (3,))
FORMATS = ("float8_e4m3fn", "int8", "bfloat16", "float16")


def scaled() -> dict[str, Tensor]:
    """Both layers in FP8 with a scale of their own."""
    state: dict[str, Tensor] = {}
    for name, weight in WEIGHTS.items():
        scale = weight.abs().max() / 448
        state |= {f"{name}.weight": (weight / scale).to(torch.float8_e4m3fn), f"{name}.weight_scale": scale}
    return state


def mutated(state: dict[str, Tensor], rng: random.Random) -> tuple[dict[str, Tensor], str]:
    """One thing wrong with a scale, a companion, a name or a shape."""
    kind, key = rng.choice(("scale", "companion", "drop", "rename", "exchange", "shape")), rng.choice(list(state))
    name = key.rpartition(".")[0]
    if kind == "scale":
        state[f"{name}.weight_scale"] = torch.full(rng.choice(SHAPES), rng.choice(VALUES))
    elif kind == "companion":
        state[name + rng.choice(COMPANIONS)] = torch.full(rng.choice(SHAPES), rng.choice(VALUES))
    elif kind == "drop":
        del state[key]
    elif kind == "rename":
        state[name + rng.choice(COMPANIONS)] = state.pop(key)
    elif kind == "exchange":
        state[key] = torch.full(rng.choice(SHAPES), rng.choice(VALUES)).to(rng.choice((torch.float16, torch.float32)))
    else:
        state[key] = state[key].reshape(-1)[: rng.choice((1, 32, 2048))].clone()
    return state, kind


def wrong(state: dict[str, Tensor]) -> str:
    """A layer that is read as what it never was; one that was given another weight or none is not looked for."""
    try:
        checkpoint = read_checkpoint(StateDictSource(state))
    except Refused:
        return ""
    original = scaled()
    for name, weight in WEIGHTS.items():
        untouched = torch.equal(*(s.get(f"{name}.weight", torch.zeros(1)).float() for s in (state, original)))
        if not untouched or name not in checkpoint:
            continue
        # an extra factor that the file itself states is part of what it says
        if (stated := state.get(f"{name}.pre_quant_scale")) is not None and bool(stated.isfinite().all()):
            continue
        read = checkpoint[name].dequantize()
        if read.shape != weight.shape or not (read - weight).norm() <= 0.1 * weight.norm():
            return f"{name} is read with error {float((read - weight).norm() / weight.norm()):.2g}"
    return ""


def lost(folder: Path, rng: random.Random) -> tuple[str, str]:
    """A conversion in a folder of other models: (what is lost, "" for nothing; what kind of target it was)."""
    plain = {f"{name}.weight": weight.bfloat16() for name, weight in WEIGHTS.items()}
    if rng.random() < 0.5:
        plain[rng.choice(list(WEIGHTS)) + rng.choice(COMPANIONS)] = torch.full(rng.choice(SHAPES), rng.choice(VALUES))
    for path in folder.iterdir():
        path.unlink()
    save_file(plain, folder / "source.safetensors")
    sharded = Options(1, shard_size=rng.choice((1000, 9000, 10**6)))
    if rng.random() < 0.5:
        convert(
            StateDictSource(plain_layers()), folder / f"own.safetensors{INDEX}", "bfloat16", Options(1, shard_size=9000)
        )
    (folder / "config.json").write_text("{}")
    names = [path.name for path in folder.iterdir()] + ["new.safetensors", f"new.safetensors{INDEX}", "source.sft"]
    # half of the time a conversion that should succeed
    source = rng.choice(("source.safetensors", rng.choice(names)))
    target = rng.choice(("new.safetensors", f"new.safetensors{INDEX}", *names))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    format = rng.choice(FORMATS)
    try:
        convert(folder / source, folder / target, format, rng.choice((Options(1), sharded)))
    except Refused:
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        return ("a refusal changed something" if after != before else ""), "refused"
    own = target.startswith("own")
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    gone = [
        n for n, data in before.items() if after.get(n) != data and n != target and not (own and n.startswith("own"))
    ]
    if gone:
        return f"{source} -> {target} lost {gone}", "converted"
    return missing(plain, folder / target, source), "converted"


def plain_layers() -> dict[str, Tensor]:
    return {f"{name}.weight": weight.bfloat16() for name, weight in WEIGHTS.items()}


def missing(plain: dict[str, Tensor], target: Path, source: str) -> str:
    """Keys of the source that its conversion lacks and that nothing says were left out."""
    if source != "source.safetensors":
        return ""
    path = target if target.exists() else target.with_name(target.name.removesuffix(INDEX))
    path = path if path.exists() else target.with_name(f"{target.name}{INDEX}")
    found = read_checkpoint(path)
    there = {*found.source, *found.tensors, *(found.weight_key(name) for name in found)}
    ignored = {key for key in plain if bool((plain[key] == 1).all()) or key.endswith(("comfy_quant", "scaled_fp8"))}
    reasons = read_checkpoint(StateDictSource(plain)).verdict.reasons
    if any("ignored" in reason for reason in reasons):
        ignored |= {key for key in plain if not key.endswith(".weight")}
    # torchao's names of what is no layer lose what says so
    gone = {key for key in plain.keys() - ignored if not {key, key.removesuffix(":_data")} & there}
    return f"{sorted(gone)} are not in {path.name}" if gone else ""


def attempt(rng: random.Random, folder: Path) -> tuple[str, str]:
    """What was tried, and what is wrong ("" for nothing)."""
    if rng.random() < 0.2:
        problem, what = lost(folder, rng)
        return what, problem
    state, kind = mutated(scaled(), rng)
    problem = wrong(state)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return f"read, {kind}", f"{problem}: {shapes}" if problem else ""
