"""What several nodes share: inputs, outputs, and what comes of quantizing."""

from __future__ import annotations

from collections.abc import Sequence

import folder_paths
from comfy_api.v0_0_2 import io

from ..quant.errors import one_of
from ..quant.kernels.mode import ACTIVATION_SCALES, FAMILIES
from ..quant.nn.stats import Stats
from ..quant.recipes.methods import BUDGET, CHOICES, METHODS
from .host.parts import Part
from .host.quantize import DEFAULT, Recipe, quantize_report, settings_stamp
from .panel.runs import remember

CATEGORY = "Scaled FP8"
CalibrationType = io.Custom("CALIBRATION")
MODEL_FOLDERS = ("diffusion_models", "checkpoints")
NONE = "none"


def model_files() -> list[str]:
    """Every file a diffusion model may be in, as folder/name; sharded ones by their index."""
    listed = {folder: [*folder_paths.get_filename_list(folder), *shard_indexes(folder)] for folder in MODEL_FOLDERS}
    return [f"{folder}/{name}" for folder, names in listed.items() for name in names]


def shard_indexes(folder: str) -> list[str]:
    found = [folder_paths.recursive_search(path)[0] for path in folder_paths.get_folder_paths(folder)]
    return sorted({name for names in found for name in names if name.endswith(".safetensors.index.json")})


def model_path(choice: str) -> str:
    """Path of a file as model_files lists it; an error of ComfyUI's own where the folder has none of that name."""
    folder, _, name = choice.partition("/")
    return folder_paths.get_full_path_or_raise(one_of("folder", folder, MODEL_FOLDERS), name)


def compute_input() -> io.Combo.Input:
    return io.Combo.Input(
        "compute",
        options=list(FAMILIES),
        default="auto",
        tooltip="auto: the best kernel this device was seen to compute correctly. scaled_mm: FP8 matrix units, "
        "an error where there are none. int8: FP8 weights encoded anew as INT8, for its matrix units. "
        "upcast: dequantize each layer as it is used.",
    )


def activation_scale_input() -> io.Combo.Input:
    return io.Combo.Input(
        "activation_scale",
        options=list(ACTIVATION_SCALES),
        default="dynamic",
        advanced=True,
        tooltip="dynamic: scale activations per token as they come. dynamic-per-tensor: one scale for all tokens, "
        "faster where a GPU has no per-row GEMM and less exact. static: the file's input_scale where it is plausible, "
        "faster still and less exact.",
    )


def quantize_inputs(methods: Sequence[str], default: str) -> list[io.Input]:
    """What each Quantize node takes beside what it quantizes."""
    return [method_input(methods, default), granularity_input(), keep_input()]


def quantize_outputs(quantized: io.Output) -> list[io.Output]:
    report = io.String.Output(display_name="report", tooltip="What was quantized, kept and why; what runs where.")
    return [quantized, report]


class QuantizeNode(io.ComfyNode):
    """A node that quantizes by a recipe; it runs again when the settings file is another one than it was."""

    @classmethod
    def fingerprint_inputs(cls, **inputs: object) -> object:
        return settings_stamp()

    @classmethod
    def quantized(cls, recipe: Recipe, part: Part, stats: Stats) -> io.NodeOutput:
        """What a quantize function gave, as the node's outputs and for the panel."""
        remember(cls, part, stats=stats)
        return io.NodeOutput(part, quantize_report(part, recipe, stats))


def method_input(names: Sequence[str], default: str) -> io.Combo.Input:
    known = {**METHODS, BUDGET.name: BUDGET}
    titles = "; ".join(f"{name}: {known[name].title}" for name in names)
    tip = f"{titles}; auto and default: what scaled_fp8.toml in ComfyUI's user folder says for this model, if it does."
    return io.Combo.Input("method", options=[*names, DEFAULT], default=default, tooltip=tip)


def granularity_input() -> io.Combo.Input:
    return io.Combo.Input(
        "granularity",
        options=[*CHOICES, DEFAULT],
        default=DEFAULT,
        tooltip="Which weights share a scale; default: what scaled_fp8.toml says, else per-tensor. FP8 files that "
        "plain ComfyUI loads are per-tensor; per-row and block are a little more exact and need this pack. "
        "mxfp8, nvfp4 and int4 have groups of their own.",
    )


def keep_input() -> io.String.Input:
    return io.String.Input(
        "keep",
        default="",
        advanced=True,
        tooltip="Regular expression searched in the layer names: these stay in high precision, beside those that the "
        "model family's rules keep.",
    )
