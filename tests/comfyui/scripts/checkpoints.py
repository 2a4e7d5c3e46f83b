"""All-in-one checkpoints as core saves them, quantized whole: the model and its text encoders beside core's."""

from __future__ import annotations

import comfy.sd
import folder_paths
import narrow
import torch
from comfy.quant_ops import QuantizedTensor
from inside import BASE, REQUEST, answer, call, error, fp8, pack, unload
from produced import StateDict, matrices, tensors_in, worst, written
from safetensors.torch import load_file, save_file
from small_encoders import ENCODERS
from small_models import built, core_model, forward, tensors_of, told

torch.set_num_threads(1)
pack()
IN_NO_FILE = "clip_l.transformer.text_projection.weight"  # core has there what was in memory
FOLDER = BASE / "models" / "checkpoints"


def saved(architecture: str, encoder: str) -> StateDict:
    """What core's Save Checkpoint writes of both, without a VAE."""
    model, beside = built(architecture)
    tensors = {name: tensor.clone() for name, tensor in model.diffusion_model.state_dict().items()}
    clip = narrow.by_core(ENCODERS[encoder], [file for file, _ in narrow.built(ENCODERS[encoder])])
    path = FOLDER / "whole.safetensors"
    comfy.sd.save_checkpoint(str(path), core_model(tensors | beside, {}), clip)
    return load_file(path)


def put(name: str, tensors: StateDict, metadata: dict[str, str] | None = None) -> str:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, FOLDER / name, metadata or None)
    folder_paths.filename_list_cache.clear()
    return name


def conditioning(clip) -> torch.Tensor:
    ((text, pooled),) = call("CLIPTextEncode", clip=clip, text="a handwritten digit")[0]
    return torch.cat([text.flatten(), *(part.flatten() for part in pooled.values() if torch.is_tensor(part))]).float()


def beside_core(architecture: str, dialect: str, whole: StateDict) -> dict[str, object]:
    stored, metadata, meant = written(dialect, whole, matrices(whole))
    put("stored.safetensors", stored, metadata), put("meant.safetensors", meant)
    core_model, core_clip, *_ = comfy.sd.load_checkpoint_guess_config(
        str(FOLDER / "meant.safetensors"), output_vae=False
    )
    model, clip, _, report = fp8("stored.safetensors", "checkpoints", "upcast")
    if clip is None:
        return {"refused": "no text encoder came out"}
    weights, core_weights = tensors_in(clip.cond_stage_model), tensors_in(core_clip.cond_stage_model)
    core_weights.pop(IN_NO_FILE, None)
    off, where = worst(weights, core_weights)
    found = {
        "weights": worst(tensors_of(model), tensors_of(core_model))[0],
        "error": error(forward(model, architecture), forward(core_model, architecture)),
        "encoder weights": off,
        "where": where,
        "conditioning": error(conditioning(clip), conditioning(core_clip)),
        "scaled": sum(isinstance(weight, QuantizedTensor) for weight in weights.values()),
        "report": report,
    }
    if dialect == "ltx":
        found["saved"] = saved_again(architecture, model, clip, core_model)
    unload()
    return found


def saved_again(architecture: str, model, clip, want) -> dict[str, float]:
    """What core's Save Checkpoint writes of a scaled model and text encoder, as core reads it and as it is here."""
    comfy.sd.save_checkpoint(str(FOLDER / "again.safetensors"), model, clip)
    folder_paths.filename_list_cache.clear()
    text, picture = conditioning(clip), forward(want, architecture)
    core_model, core_clip, *_ = comfy.sd.load_checkpoint_guess_config(
        str(FOLDER / "again.safetensors"), output_vae=False
    )
    here, own_clip, *_ = fp8("again.safetensors", "checkpoints", "upcast")
    return {
        "core": error(forward(core_model, architecture), picture),
        "here": error(forward(here, architecture), picture),
        "core's text": error(conditioning(core_clip), text),
        "text here": error(conditioning(own_clip), text),
    }


def figures_of(architecture: str, encoder: str) -> dict[str, dict]:
    with told(architecture), narrow.told(ENCODERS[encoder]):
        whole = saved(architecture, encoder)
        return {dialect: beside_core(architecture, dialect, whole) for dialect in REQUEST["dialects"]}


answer({architecture: figures_of(architecture, encoder) for architecture, encoder in REQUEST["pairs"].items()})
