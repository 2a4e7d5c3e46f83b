"""Small builds of ComfyUI's own architectures: its classes, with random weights, run on inputs of the table."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "support"))

import comfy.ldm.audio.embedders
import comfy.model_detection
import comfy.ops
import comfy.sd
import comfy.supported_models
import torch
from architectures import SMALL, Small
from inside import load, unload
from produced import StateDict, randomise, tensors_in

##### A model


@contextlib.contextmanager
def told(name: str):
    """ComfyUI as if the small sizes of an architecture were those it knows; what it reads from a file stays its own."""
    cls, small = getattr(comfy.supported_models, name), SMALL[name].unet
    known, fixed, detect = cls.unet_config, cls.unet_extra_config, comfy.model_detection.detect_unet_config

    def detected(*args, **kwargs):
        found = detect(*args, **kwargs)
        # sizes in the header's config are read from there, or they are wrong
        return found if found is None or SMALL[name].metadata else found | small

    cls.unet_config = {key: small.get(key, value) for key, value in known.items()}
    cls.unet_extra_config = {key: small.get(key, value) for key, value in fixed.items()}
    comfy.model_detection.detect_unet_config = detected
    try:
        yield cls
    finally:
        cls.unet_config, cls.unet_extra_config = known, fixed
        comfy.model_detection.detect_unet_config = detect


def built(name: str) -> tuple[torch.nn.Module, StateDict]:
    """The model with random weights, and what a file has beside it."""
    torch.manual_seed(0)
    small = SMALL[name]
    with told(name) as cls:
        config = cls(dict(small.unet))
        config.unet_config |= {k: v for k, v in small.unet.items() if k != "causal_ar"}
        config.set_inference_dtype(torch.bfloat16, None)
        config.custom_operations = comfy.ops.manual_cast
        beside = company(name)
        model = config.get_model(dict(beside), "")
    randomise(model.diffusion_model)
    return model, beside


def company(name: str) -> StateDict:
    small, found = SMALL[name], {key: torch.tensor([]) for key in SMALL[name].extras}
    if small.unet.get("audio_model") == "dit1.0":
        limits = {"StableAudio": (512, {}), "StableAudio3": (384, {"fourier_features_type": "learned"})}
        top, more = limits[name]
        for which in ("seconds_start", "seconds_total"):
            made = comfy.ldm.audio.embedders.NumberConditioner(768, min_val=0, max_val=top, **more)
            found |= {f"conditioner.conditioners.{which}.{k}": v for k, v in made.state_dict().items()}
    if name == "Stable_Zero123":
        found |= {"cc_projection.weight": torch.randn(768, 772) / 28, "cc_projection.bias": torch.zeros(768)}
    return found


def made(value):
    """(1, 2) is noise of that shape, "zeros:1,2" and "ones:1,2" are integers; a list is one of each."""
    if isinstance(value, list):
        return [made(v) for v in value]
    if isinstance(value, tuple):
        return torch.randn(value)
    kind, _, sizes = str(value).partition(":")
    if kind not in CONSTANTS:
        return value
    return CONSTANTS[kind](*[int(size) for size in sizes.split(",")])


def grid(size: int) -> torch.Tensor:
    """Every voxel of a cube: its batch, x, y and z."""
    return torch.cartesian_prod(torch.arange(1), *[torch.arange(size)] * 3)


CONSTANTS = {
    "zeros": partial(torch.zeros, dtype=torch.int64),
    "ones": partial(torch.ones, dtype=torch.int64),
    "fones": torch.ones,
    "grid": grid,
}


def forward(model, name: str) -> torch.Tensor:
    """What the whole model makes of the inputs of the table."""
    small = SMALL[name]
    load(model)
    torch.manual_seed(1)
    given = {"x": small.x, "context": small.context, **small.more}
    given = {key: value for key, value in given.items() if key != "context" or value is not None}
    out = [flat(one_pass(model, small, given | other)) for other in ({}, *small.also)]
    unload()
    return torch.cat([part.flatten() for part in out])


def one_pass(model, small: Small, shapes: dict[str, object]):
    dtype = model.model.get_dtype_inference()
    given = {name: cast(made(value), dtype) for name, value in shapes.items()}
    x = given.pop("x")
    first = x[0] if isinstance(x, list) else x
    options = {key: torch.tensor(value) if key.endswith("sigmas") else value for key, value in small.options.items()}
    t = torch.full((first.shape[0],), small.t)
    return model.model.diffusion_model(x, t, transformer_options=options, **given, **conditioning(model, small, first))


def cast(value, dtype: torch.dtype):
    if isinstance(value, list):
        return [cast(part, dtype) for part in value]
    return value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value


def conditioning(model, small: Small, noise: torch.Tensor) -> dict[str, object]:
    """What core makes of a prompt for models that read its tokens themselves."""
    if not small.conditioning:
        return {}
    asked = {name: torch.tensor(value) for name, value in small.conditioning.items()}
    made = model.model.extra_conds(noise=noise, device=noise.device, **asked)
    return {name: value.cond for name, value in made.items()}


def flat(out) -> torch.Tensor:
    if isinstance(out, dict):
        return flat(list(out.values()))
    if isinstance(out, (tuple, list)):
        return torch.cat([flat(part).flatten() for part in out if part is not None])
    return out.float()


##### A file


def file_names(name: str, tensors: StateDict) -> StateDict:
    """By the names of a published file, where ComfyUI knows the model by them only."""
    return {f"core.{k}": v for k, v in tensors.items()} if name == "PixelDiTT2I" else tensors


##### What is compared


def tensors_of(model) -> StateDict:
    return tensors_in(model.model.diffusion_model)


def core_model(tensors: StateDict, metadata: dict[str, str]):
    return comfy.sd.load_diffusion_model_state_dict(dict(tensors), {}, metadata)
