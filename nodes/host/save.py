"""A quantized MODEL as a file that ComfyUI core loads without this pack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy.model_base import ModelType
from comfy.model_patcher import LazyCastingParam, LazyCastingQuantizedParam, ModelPatcher
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from torch import Tensor

from ...quant.conversion.readback import check_layers
from ...quant.errors import Refused
from ...quant.files.header import info_of
from ...quant.files.stored import Source
from ...quant.files.writer import write_safetensors
from .provenance import card_of, source_of

# What ComfyUI detects a model by only if it stands before the names, though its own saving leaves it out.
DETECTED_BY = {"pixeldit_t2i": "core."}
# Of the file that a model came from: about its tensors as they were, or about how it was made.
OUTDATED = ("_quantization_metadata", "quantization_config", "tensor_names", "prompt", "workflow", "format")


def save_model(model: ModelPatcher, filename_prefix: str, metadata: dict[str, str]) -> Path:
    """Write the model, with its LoRA merged, below the output folder; Refused where core could not load it again."""
    comfy.model_management.load_models_gpu([model])
    tensors = saved_tensors(model)
    markers = layer_markers(tensors)
    if not markers:
        raise Refused("No layer of this model is quantized: use ComfyUI's Save Model, or quantize it first.")
    check_core_loads(markers)
    layers = json.dumps({"format_version": "1.0", "layers": markers})
    path = target(filename_prefix)
    plan = [info_of(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
    source = source_of(model)
    card = card_of(model, source, markers, plan)
    header = {**kept_metadata(source), **metadata, "_quantization_metadata": layers, **card}
    write_safetensors(path, plan, on_cpu(tensors), header, lambda output: check_layers(output, path, markers))
    return path


def saved_tensors(model: ModelPatcher) -> dict[str, Tensor]:
    """The model by the names that core's loader of diffusion models expects, and what it reads beside them."""
    config = model.model.model_config
    written = next(iter(config.process_unet_state_dict_for_saving({"": torch.empty(0)})))
    wanted = DETECTED_BY.get(config.unet_config.get("image_model"), "")
    tensors = {
        wanted + name.removeprefix(written) if name.startswith(written) else name: tensor
        for name, tensor in model.model.state_dict_for_saving(lazy_tensors(model)).items()
    }
    return tensors | beside(model)


PREFIX = "diffusion_model."


def lazy_tensors(model: ModelPatcher) -> dict[str, Tensor]:
    """The diffusion model's tensors, merged with LoRA when they are moved; core's own can be floats only."""
    tensors = dict(model.model.diffusion_model.state_dict())
    for layer, module in model.model.diffusion_model.named_modules(remove_duplicate=False):
        if hasattr(module, "comfy_cast_weights") and not getattr(module, "comfy_patched_weights", False):
            held = {f"{layer}.{part}": module._parameters.get(part) for part in ("weight", "bias")}
            for name in held.keys() & tensors.keys():
                tensors |= lazy_parts(model, name, held[name], tensors)
    return tensors


def lazy_parts(model: ModelPatcher, name: str, tensor: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(tensor, QuantizedTensor):
        return {name: LazyCastingParam(model, PREFIX + name, tensor)}
    merged = LazyCastingQuantizedParam(model, PREFIX + name)
    return {part: LazyPart(merged, PREFIX + part, tensors[part]) for part in tensor.state_dict(name) if part in tensors}


class LazyPart(Tensor):
    """A tensor that a quantized weight is made of, codes or scales; on the CPU that of the merged weight."""

    def __new__(cls, merged: LazyCastingQuantizedParam, name: str, tensor: Tensor) -> LazyPart:
        return Tensor._make_subclass(cls, tensor, False)

    def __init__(self, merged: LazyCastingQuantizedParam, name: str, tensor: Tensor) -> None:
        self.merged, self.name_of = merged, name

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.merged.state_dict_tensor(self.name_of)


def beside(model: ModelPatcher) -> dict[str, Tensor]:
    """What core reads of a model from beside its layers: how it was trained, and parts that its own saving forgets."""
    sampling = model.get_model_object("model_sampling")
    found: dict[str, Tensor] = {}
    if model.model.model_type == ModelType.V_PREDICTION_EDM:
        sizes = {name: float(getattr(sampling, name)) for name in ("sigma_max", "sigma_min")}
        found |= {f"edm_vpred.{name}": torch.tensor(size) for name, size in sizes.items()}
    if model.model.model_type == ModelType.V_PREDICTION:
        found["v_pred"] = torch.tensor([])
        found |= {"ztsnr": torch.tensor([])} if getattr(sampling, "zsnr", False) else {}
    if hasattr(model.model, "cc_projection"):
        found |= {f"cc_projection.{name}": tensor for name, tensor in model.model.cc_projection.state_dict().items()}
    return found


def kept_metadata(source: Source | None) -> dict[str, str]:
    """The header of the file that a model came from, without what was about that file only."""
    found = source.metadata if source else {}
    return {name: value for name, value in found.items() if name not in OUTDATED and not name.endswith(".weight")}


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
