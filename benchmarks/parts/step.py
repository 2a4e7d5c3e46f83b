"""A sampling step inside ComfyUI, by every way to run the model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .. import comfyui
from ..comfyui import CORE, OURS
from ..models import KLEIN_4B, TINY, Flux2, write_bf16, write_fp8
from ..results import Measurement, Part, row, spread
from .linears import decibels


@dataclass(frozen=True)
class Way:
    """One way to run the model: loader, file and what else ComfyUI is told."""

    name: str
    loader: str
    file: str
    dtype: str = "default"
    fast: str | None = None


# way -> what inside.py answered, and its latents
Answers = dict[str, tuple[dict[str, Any], torch.Tensor]]
WAYS = (
    Way("bf16", "UNETLoader", "bf16.safetensors"),
    Way(OURS, "LoadFP8Checkpoint", "fp8.safetensors"),
    Way(f"{CORE}, native FP8 file", "UNETLoader", "fp8.safetensors"),
    Way(f"{CORE}, --fast fp8_matrix_mult", "UNETLoader", "bf16.safetensors", "fp8_e4m3fn", "fp8_matrix_mult"),
)


def step(device: str) -> Iterator[Part]:
    """Every way in a process of its own, on the same weights, text and noise."""
    model, side, text = (KLEIN_4B, 64, 512) if device == "cuda" else (TINY, 16, 64)
    size = f"{model.hidden} wide, {model.double} + {model.single} blocks, {side * side} tokens"
    title = f"A sampling step of a FLUX.2 model in ComfyUI: {size}"
    if reason := comfyui.absent():
        yield comfyui.skipped("step", title, reason)
        return
    until, answers, missing = time.monotonic() + comfyui.LONGEST, Answers(), dict[str, str]()
    with tempfile.TemporaryDirectory() as folder:
        base = comfyui.make_base(Path(folder) / "base")
        write_both(base / "models" / "diffusion_models", model, device)
        asked = {"device": device, "side": side, "text": text, "context": model.context, "steps": 4, "rounds": 5}
        for way in WAYS:
            ask(base, way, asked, until, answers, missing)
            yield told(title, device, answers, missing)


def told(title: str, device: str, answers: Answers, missing: dict[str, str]) -> Part:
    truth = answers["bf16"][1] if "bf16" in answers else None
    rows = tuple(stepped(name, answer, latents, truth) for name, (answer, latents) in answers.items())
    return Part(
        "step", title, "python -m benchmarks --only step", "bf16", rows, dict(missing), notes_of(device, answers)
    )


def every_way(base: Path, asked: dict, until: float) -> tuple[Answers, dict[str, str]]:
    """Way -> its answer and latents; way -> why it has none: one that fails costs no other its figures."""
    answers, missing = Answers(), dict[str, str]()
    for way in WAYS:
        ask(base, way, asked, until, answers, missing)
    return answers, missing


def ask(base: Path, way: Way, asked: dict, until: float, answers: Answers, missing: dict[str, str]) -> None:
    left = until - time.monotonic()
    if left <= 0:
        missing[way.name] = "there was no time left"
        return
    try:
        answers[way.name] = one_way(base, way, {**asked, "longest": left})
    except (RuntimeError, OSError) as problem:
        missing[way.name] = str(problem)


def notes_of(device: str, answers: Answers) -> tuple[str, ...]:
    latents = "errors are beside bf16, of the latents after one step"
    if device == "cpu":
        cpu = "memory is the process's, Python included; on a CPU core dequantizes every FP8 weight, fast or not"
        return (latents, cpu)
    streamed = sorted(name for name, (answer, _) in answers.items() if answer["dynamic"])
    return (latents, "memory is the GPU's", f"dynamic VRAM: {', '.join(streamed) or 'none of them'}")


def write_both(folder: Path, model: Flux2, device: str) -> None:
    write_bf16(folder / "bf16.safetensors", model, device)
    write_fp8(folder / "fp8.safetensors", model, device)


def one_way(base: Path, way: Way, asked: dict) -> tuple[dict, torch.Tensor]:
    out = base / "temp" / "latents.safetensors"
    chosen = {"loader": way.loader, "file": way.file, "dtype": way.dtype, "fast": way.fast, "out": str(out)}
    request: dict[str, Any] = asked | chosen
    answer = comfyui.inside(base, "step", **request)
    return answer, load_file(out)["latents"]


def stepped(name: str, answer: dict, latents: torch.Tensor, truth: torch.Tensor | None) -> Measurement:
    db = None if name == "bf16" or truth is None else decibels(latents, truth)
    return row("one step", name, spread(answer["times"]), db=db, memory=answer["memory"], note=answer["ran"])
