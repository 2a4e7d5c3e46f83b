"""A quantized MODEL as a file that ComfyUI core loads without this pack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QUANT_ALGOS
from torch import Tensor

from ...quant.errors import Refused
from ...quant.files.header import info_of
from ...quant.files.writer import write_safetensors

PREFIX = "model.diffusion_model."


def save_model(model: ModelPatcher, filename_prefix: str, metadata: dict[str, str]) -> Path:
    """Write the model, with its LoRA merged, below the output folder; Refused where core could not load it again."""
    comfy.model_management.load_models_gpu([model])
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in model.state_dict_for_saving().items()}
    markers = layer_markers(tensors)
    if not markers:
        raise Refused("No layer of this model is quantized: use ComfyUI's Save Model, or quantize it first.")
    check_core_loads(markers)
    layers = json.dumps({"format_version": "1.0", "layers": markers})
    path = target(filename_prefix)
    plan = [info_of(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
    write_safetensors(path, plan, on_cpu(tensors), {**metadata, "_quantization_metadata": layers})
    return path


def layer_markers(tensors: dict[str, Tensor]) -> dict[str, dict[str, object]]:
    """Layer -> what its comfy_quant says."""
    suffix = ".comfy_quant"
    found = {name.removesuffix(suffix): tensor for name, tensor in tensors.items() if name.endswith(suffix)}
    return {name: json.loads(tensor.cpu().numpy().tobytes()) for name, tensor in found.items()}


def check_core_loads(markers: dict[str, dict[str, object]]) -> None:
    unknown = {name: entry["format"] for name, entry in markers.items() if entry["format"] not in QUANT_ALGOS}
    if unknown:
        name, format = next(iter(unknown.items()))
        raise Refused(
            f"{len(unknown)} layers, {name} first, are {format}, which ComfyUI loads only with this pack; quantize "
            "with granularity per-tensor, or use ComfyUI's Save Model for a file that needs this pack."
        )


def target(filename_prefix: str) -> Path:
    folder, name, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, folder_paths.get_output_directory())
    return Path(folder) / f"{name}_{counter:05}_.safetensors"


def on_cpu(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors one at a time, merged with LoRA as ComfyUI's own lazy ones are when they are moved."""
    progress = comfy.utils.ProgressBar(len(tensors))
    for name, tensor in tensors.items():
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield name, tensor.to("cpu").contiguous()
        progress.update(1)
