"""What is measured inside ComfyUI: loading, a Linear's overhead, a sampling step."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from . import comfyui
from .linears import decibels
from .models import GIBIBYTE, KLEIN_4B, TINY, Flux2, write_bf16, write_fp8
from .results import Part, Row, row
from .timing import spread

CORE, OURS = "ComfyUI core", "Scaled FP8"


def skipped(name: str, title: str, reason: str) -> Part:
    return Part(name, title, f"python -m benchmarks --only {name}", CORE, missing={"all": reason})


##### Loading


def load(device: str, rounds: int = 9) -> Iterator[Part]:
    """UNETLoader and LoadFP8Checkpoint on the same native file of 1 GiB."""
    title = "Loading a native FP8 file of 1 GiB, FLUX.2-shaped"
    if reason := comfyui.absent():
        yield skipped("load", title, reason)
        return
    with tempfile.TemporaryDirectory() as folder:
        base = comfyui.make_base(Path(folder) / "base")
        path = write_fp8(base / "models/diffusion_models/native.safetensors", GIBIBYTE, device)
        times = comfyui.inside(base, "load", file=path.name, rounds=rounds, device=device)
    rows = tuple(loaded(name, taken) for name, taken in times.items())
    notes = (
        "warm: the file is in the page cache; cold: it was dropped from there, though a disk has caches of its own",
    )
    yield Part("load", title, "python -m benchmarks --only load", f"{CORE}'s UNETLoader", rows, notes=notes)


def loaded(name: str, taken: list[float]) -> Row:
    node, state = name.split()
    peer = f"{CORE}'s UNETLoader" if node == "UNETLoader" else "Scaled FP8's LoadFP8Checkpoint"
    note = "opens the file's header and looks at samples of every layer before it loads" if OURS in peer else ""
    return row(state, peer, spread(taken), note=note)


##### Overhead


def overhead() -> Iterator[Part]:
    """benchmarks.overhead under ComfyUI's python, by what it prints."""
    title = "One call of a Linear of 64 x 64, one token, on a CPU"
    if reason := comfyui.absent():
        yield skipped("overhead", title, reason)
        return
    with tempfile.TemporaryDirectory() as folder:
        printed = comfyui.run("overhead", folder=Path(folder))
    rows = tuple(overhead_row(*told) for told in re.findall(r"^(.+?) +([0-9.]+) us", printed, re.MULTILINE))
    baseline = min((row for row in rows if not row.ours), key=lambda row: row.median).peer
    notes = ("each the least of many, taken by turns",)
    yield Part("overhead", title, "python -m benchmarks --only overhead", baseline, rows, notes=notes)


def overhead_row(name: str, microseconds: str) -> Row:
    core = name.startswith("core")
    peer, time = f"ComfyUI {name}" if core else f"{OURS}'s {name}", float(microseconds) / 1e6
    return Row("64 x 64", peer, time, time, time, 1, note="" if core else WHY_OVERHEAD)


WHY_OVERHEAD = "it checks and counts its plan at each call, and scaled_mm quantizes every token"


##### A sampling step


@dataclass(frozen=True)
class Way:
    """One way to run the model: loader, file and what else ComfyUI is told."""

    name: str
    loader: str
    file: str
    dtype: str = "default"
    fast: str | None = None


WAYS = (
    Way("bf16", "UNETLoader", "bf16.safetensors"),
    Way(f"{CORE}, native FP8 file", "UNETLoader", "fp8.safetensors"),
    Way(f"{CORE}, --fast fp8_matrix_mult", "UNETLoader", "bf16.safetensors", "fp8_e4m3fn", "fp8_matrix_mult"),
    Way(OURS, "LoadFP8Checkpoint", "fp8.safetensors"),
)


def step(device: str) -> Iterator[Part]:
    """Every way in a process of its own, on the same weights, text and noise."""
    model, side, text = (KLEIN_4B, 64, 512) if device == "cuda" else (TINY, 16, 64)
    size = f"{model.hidden} wide, {model.double} + {model.single} blocks, {side * side} tokens"
    title = f"A sampling step of a FLUX.2 model in ComfyUI: {size}"
    if reason := comfyui.absent():
        yield skipped("step", title, reason)
        return
    with tempfile.TemporaryDirectory() as folder:
        base = comfyui.make_base(Path(folder) / "base")
        write_both(base / "models" / "diffusion_models", model, device)
        asked = {"device": device, "side": side, "text": text, "context": model.context, "steps": 4, "rounds": 5}
        answers = {way.name: one_way(base, way, asked) for way in WAYS}
    truth = answers["bf16"][1]
    rows = tuple(stepped(name, answer, latents, truth) for name, (answer, latents) in answers.items())
    cpu = "memory is the process's, Python included; on a CPU core dequantizes every FP8 weight, fast or not"
    gpu = "memory is the GPU's"
    notes = ("errors are beside bf16, of the latents after one step", gpu if device == "cuda" else cpu)
    yield Part("step", title, "python -m benchmarks --only step", "bf16", rows, notes=notes)


def write_both(folder: Path, model: Flux2, device: str) -> None:
    write_bf16(folder / "bf16.safetensors", model, device)
    write_fp8(folder / "fp8.safetensors", model, device)


def one_way(base: Path, way: Way, asked: dict) -> tuple[dict, torch.Tensor]:
    out = base / "temp" / "latents.safetensors"
    request = {"loader": way.loader, "file": way.file, "dtype": way.dtype, "fast": way.fast, "out": str(out)}
    answer = comfyui.inside(base, "step", **asked, **request)
    return answer, load_file(out)["latents"]


def stepped(name: str, answer: dict, latents: torch.Tensor, truth: torch.Tensor) -> Row:
    db = None if name == "bf16" else decibels(latents, truth)
    return row("one step", name, spread(answer["times"]), db=db, memory=answer["memory"], note=answer["ran"])
