"""From a recognised checkpoint to ComfyUI's MODEL, CLIP and VAE."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from comfy.supported_models_base import BASE
from torch import Tensor

from ... import quant
from ...quant.files.memory import Loaded, loaded
from ...quant.files.stored import STORES
from ...quant.kernels.mode import UPCAST, Mode
from ...quant.nn.tensor import is_scaled, to_tensor
from .architecture import absent_from, check_no_control_net, fits_unet, unet_names
from .arrival import Note, arriving, settle_arrivals
from .casting import unmark
from .controls import serve_controls
from .devices import DEVICE_CALLBACKS, attend
from .encoder import by_encoder_names, by_patcher
from .linear import Operations, scaled_ops
from .plan import ABSENT, plan_model

# where a text encoder runs, as in ComfyUI's own loaders
DEVICES = ("default", "cpu")
# MODEL, CLIP or None, VAE or None
Parts = tuple[ModelPatcher, comfy.sd.CLIP | None, comfy.sd.VAE | None]


def checkpoint_tensors(checkpoint: quant.Checkpoint, note: Note) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its own name; each quantized weight as one scaled tensor ``[out, in]``.

    note: told the names of those that are dequantized, now or by what they are loaded into.
    """
    tensors = dict(checkpoint.tensors)
    progress = comfy.utils.ProgressBar(len(checkpoint))
    for name in checkpoint:
        comfy.model_management.throw_exception_if_processing_interrupted()
        tensors[checkpoint.weight_key(name)] = resident(checkpoint, name, note)
        progress.update(1)
    return tensors


def resident(checkpoint: quant.Checkpoint, name: str, note: Note) -> Tensor:
    """A Linear's weight stays scaled; a convolution's, which ComfyUI cannot scale, is dequantized."""
    weight, shape = checkpoint[name], checkpoint.spec(name).full_shape
    if len(shape) > 2:
        note(name)
        return weight.dequantize(torch.bfloat16).view(shape)
    return arriving(to_tensor(weight, torch.bfloat16), name, note)


def open_checkpoint(path: str) -> quant.Checkpoint:
    """A checkpoint whose tensors ComfyUI itself maps from disk, so that it streams them as its own."""
    # in messages, which may leave this machine, the file's name is enough
    source = quant.open_source(path, Path(path).name)
    # before they are mapped: looking into a mapped file reads megabytes around every place from a cold disk
    checkpoint = quant.read_checkpoint(source, fits=partial(fits_unet, metadata=dict(source.metadata)))
    source.exchange(mapped_tensors(path))
    return checkpoint


def mapped_tensors(path: str) -> dict[str, Loaded]:
    try:
        tensors = comfy.utils.load_torch_file(path) if path.endswith(STORES) else {}
    except KeyError:
        # a dtype that ComfyUI's reader has no name for; this pack's own reads it
        return {}
    return {name: loaded(name, tensor, Path(path).name) for name, tensor in tensors.items()}


def unet_tensors(checkpoint: quant.Checkpoint, note: Note) -> dict[str, Tensor]:
    """The diffusion model's tensors by ComfyUI's names, before its own renames for the model family."""
    return unet_names(checkpoint_tensors(checkpoint, note), dict(checkpoint.source.metadata))


def unet_ops(tensors: dict[str, Tensor], prefix: str) -> type[Operations]:
    """Operations that compute as ComfyUI computes this architecture on this device."""
    device = comfy.model_management.get_torch_device()
    config = comfy.model_detection.model_config_from_unet(tensors, prefix)
    supported = config.supported_inference_dtypes if config else [torch.bfloat16, torch.float32]
    return scaled_ops(comfy.model_management.unet_manual_cast(None, device, supported), device)


def text_encoder_ops(mode: Mode = UPCAST, device: torch.device | None = None) -> type[Operations]:
    device = device or comfy.model_management.text_encoder_device()
    exact = mode.compute == UPCAST.compute
    return scaled_ops(comfy.model_management.text_encoder_dtype(device), device, full_precision=exact)


def ready(model: ModelPatcher, notes: list[str], mode: Mode) -> None:
    """What every loaded model is given before a node gives it out: its notes, a plan, and plans on other devices."""
    settle_arrivals(model, notes)
    plan_model(model, mode)
    unmark(model)
    serve_controls(model)
    attend(model, {**DEVICE_CALLBACKS, CallbacksMP.ON_LOAD: unmark})


def load_diffusion_model(path: str, mode: Mode, disable_dynamic: bool = False) -> ModelPatcher:
    """MODEL from a file that holds a diffusion model; also the factory by which ComfyUI builds it anew."""
    notes: list[str] = []
    checkpoint = open_checkpoint(path)
    check_no_control_net(Path(path).name, checkpoint.shapes())
    tensors = unet_tensors(checkpoint, notes.append)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    options = {"custom_operations": unet_ops(tensors, "")}
    metadata = dict(checkpoint.source.metadata)
    model = comfy.sd.load_diffusion_model_state_dict(tensors, options, metadata, disable_dynamic)
    if model is None:
        raise quant.Refused(
            f"{Path(path).name}: holds no diffusion model that this ComfyUI knows by its tensors' names; update it, or "
            "choose a file with ComfyUI's names: of diffusers' it knows those of a few families."
        )
    ready(model, notes, mode)
    model.set_attachments(ABSENT, absent_from(shapes, model))
    model.cached_patcher_init = (load_diffusion_model, (path, mode))
    model.set_attachments("scaled_fp8_verdict", checkpoint.verdict)
    return model


def load_checkpoint(path: str, mode: Mode, disable_dynamic: bool = False) -> Parts:
    """(MODEL, CLIP or None, VAE or None) from an all-in-one checkpoint."""
    notes: list[str] = []
    checkpoint = open_checkpoint(path)
    check_no_control_net(Path(path).name, checkpoint.shapes())
    tensors = checkpoint_tensors(checkpoint, notes.append)
    prefix = comfy.model_detection.unet_prefix_from_state_dict(tensors)
    config = comfy.model_detection.model_config_from_unet(tensors, prefix)
    if config is None:
        return load_diffusion_model(path, mode, disable_dynamic), None, None
    metadata = dict(checkpoint.source.metadata)
    own = {k.removeprefix(prefix): tuple(tensor.shape) for k, tensor in tensors.items() if k.startswith(prefix)}
    model, clip, vae = built(tensors, prefix, config, metadata=metadata, disable_dynamic=disable_dynamic)
    ready(model, notes, mode)
    model.set_attachments(ABSENT, absent_from(own, model))
    model.set_attachments("scaled_fp8_verdict", checkpoint.verdict)
    model.cached_patcher_init = (load_checkpoint, (path, mode), 0)
    if clip is not None:
        ready(clip.patcher, notes, UPCAST)
        clip.patcher.cached_patcher_init = (load_checkpoint_clip, (path, mode))
        by_patcher(clip)
    if vae is not None:
        vae.patcher.cached_patcher_init = (load_checkpoint_vae, (path, mode))
    return model, clip, vae


def built(tensors: dict[str, Tensor], prefix: str, config: Any, **options: Any) -> Parts:
    """MODEL, CLIP and VAE as core makes them of tensors, by operations that take scaled weights."""
    encoders = encoder_names(config, tensors)
    dequantize_others(tensors, encoders | {name for name in tensors if name.startswith(prefix)})
    model, clip, vae, _ = comfy.sd.load_state_dict_guess_config(
        tensors,
        output_vae=any(name.startswith(tuple(config.vae_key_prefix)) for name in tensors),
        output_clip=bool(encoders),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={"custom_operations": unet_ops(tensors, prefix)},
        te_model_options={"custom_operations": text_encoder_ops()},
        **options,
    )
    return model, clip, vae


def load_checkpoint_clip(path: str, mode: Mode, disable_dynamic: bool = False) -> ModelPatcher:
    _, clip, _ = load_checkpoint(path, mode, disable_dynamic)
    assert clip is not None, "the text encoder is no longer in the file"
    return clip.patcher


def load_checkpoint_vae(path: str, mode: Mode, disable_dynamic: bool = False) -> ModelPatcher:
    _, _, vae = load_checkpoint(path, mode, disable_dynamic)
    assert vae is not None, "the VAE is no longer in the file"
    return vae.patcher


def encoder_names(config: BASE, tensors: dict[str, Tensor]) -> set[str]:
    """The tensors that ComfyUI takes for a text encoder, whether or not the architecture tells their prefix.

    Those of SDXL and Stable Diffusion 2 are below conditioner.embedders, which it does not tell.
    """
    left = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in tensors.items()}
    config.process_clip_state_dict(left)
    return tensors.keys() - left.keys()


def dequantize_others(tensors: dict[str, Tensor], scaled: set[str]) -> None:
    """Dequantize in place of the scaled tensors what goes to modules without scaled Linears, a VAE for example."""
    for name, tensor in tensors.items():
        if is_scaled(tensor) and name not in scaled:
            tensors[name] = tensor.dequantize()


def load_text_encoder(
    paths: tuple[str, ...],
    type_name: str,
    mode: Mode = UPCAST,
    device: str = DEVICES[0],
    disable_dynamic: bool = False,
) -> tuple[comfy.sd.CLIP, list[quant.Verdict]]:
    """CLIP from one or two text encoder files; type_name and device as in ComfyUI's own CLIP loaders."""
    notes: list[str] = []
    checkpoints = [open_checkpoint(path) for path in paths]
    place = {} if device == DEVICES[0] else dict.fromkeys(("load_device", "offload_device"), torch.device(device))
    tensors = (checkpoint_tensors(checkpoint, notes.append) for checkpoint in checkpoints)
    files = list(zip((Path(path).name for path in paths), tensors, strict=True))
    clip = comfy.sd.load_text_encoder_state_dicts(
        by_encoder_names(files),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        clip_type=getattr(comfy.sd.CLIPType, type_name.upper(), comfy.sd.CLIPType.STABLE_DIFFUSION),
        model_options={"custom_operations": text_encoder_ops(mode, place.get("load_device")), **place},
        disable_dynamic=disable_dynamic,
    )
    ready(clip.patcher, notes, mode)
    clip.patcher.cached_patcher_init = (load_text_encoder_patcher, (paths, type_name, mode, device))
    return by_patcher(clip), [checkpoint.verdict for checkpoint in checkpoints]


def load_text_encoder_patcher(
    paths: tuple[str, ...], type_name: str, mode: Mode, device: str, disable_dynamic: bool = False
) -> ModelPatcher:
    return load_text_encoder(paths, type_name, mode, device, disable_dynamic)[0].patcher
