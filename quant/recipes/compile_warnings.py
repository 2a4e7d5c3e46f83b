"""Combinations of quantization, torch.compile and offloading that are known to hurt: data, one row each."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import one_of
from .methods import METHODS, method_named

COMPILE_MODES = ("none", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
OFFLOADS = ("none", "model", "sequential", "dynamic")
GRAPHS = ("reduce-overhead", "max-autotune")
FP8 = ("fp8-dynamic", "fp8-weight-only", "mxfp8")
QUANTIZED = tuple(name for name in METHODS if name not in ("none", "auto"))


@dataclass(frozen=True)
class Warned:
    """A combination; an empty tuple stands for all. text: what happens and what to do instead."""

    methods: tuple[str, ...]
    compile_modes: tuple[str, ...]
    offloads: tuple[str, ...]
    text: str


WARNED = (
    Warned(
        ("fp8-dynamic",), ("none",), (),
        "fp8-dynamic without torch.compile scales activations in several passes, which on small layers costs more than "
        "the FP8 GEMM gains; compile the model.",
    ),
    Warned(
        ("fp8-weight-only", "int4", "nvfp4"), ("none",), (),
        "Weights are dequantized at every call, which is slower than bf16 while nothing is compiled; it saves memory, "
        "not time.",
    ),
    Warned(
        QUANTIZED, GRAPHS, ("model", "sequential", "dynamic"),
        "CUDA graphs hold the addresses of weights that offloading moves; use compile mode 'default' or "
        "'max-autotune-no-cudagraphs', or no offloading.",
    ),
    Warned(
        QUANTIZED, ("default", "max-autotune-no-cudagraphs"), ("sequential",),
        "Sequential offloading moves each layer at every step, so the graph breaks at each; use 'model' offloading.",
    ),
    Warned(
        QUANTIZED, ("default", *GRAPHS, "max-autotune-no-cudagraphs"), ("dynamic",),
        "ComfyUI's dynamic VRAM hands weights over outside of the graph, which torch.compile cannot trace; start "
        "ComfyUI with --disable-dynamic-vram.",
    ),
    Warned(
        FP8, ("max-autotune", "max-autotune-no-cudagraphs"), (),
        "max-autotune tries Triton's FP8 kernels, which GPUs before Ada do not have and which may round otherwise than "
        "the proven GEMM; compare one image with compile mode 'default'.",
    ),
    Warned(
        ("int8", "int8-convrot"), ("none",), ("sequential",),
        "INT8 weights that wait in system memory are moved at every step: half the bytes of bf16, but still most "
        "of the time; keep the model on the device if it now fits.",
    ),
)  # fmt: skip


def get_quant_compile_warnings(method: str, compile_mode: str | None = None, offload: str | None = None) -> list[str]:
    """What is known to hurt in this combination, a sentence each; no compile mode or offload means none."""
    name, mode, moved = method_named(method).name, compile_mode or "none", offload or "none"
    one_of("compile_mode", mode, COMPILE_MODES)
    one_of("offload", moved, OFFLOADS)
    return [row.text for row in WARNED if matches(row, name, mode, moved)]


def matches(row: Warned, method: str, compile_mode: str, offload: str) -> bool:
    wanted = ((row.methods, method), (row.compile_modes, compile_mode), (row.offloads, offload))
    return all(not values or value in values for values, value in wanted)
