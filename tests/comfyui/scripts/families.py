"""Small builds of ComfyUI's own architectures in every dialect, beside core on what each file means."""

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
from architectures import SMALL, TOO_LARGE, Small
from comfy.quant_ops import QuantizedTensor
from inside import BASE, MODELS, REQUEST, answer, call, error, load, pack, save_file, unload
from produced import E4M3, LOG, StateDict, linear_names, randomise, tensors_in, worst, written

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


def loaded(name: str, dialect: str, tensors: StateDict, linears: set[str], beside: StateDict) -> dict:
    small = SMALL[name]
    stored, quantization, meant = written(dialect, tensors, linears)
    metadata = {**small.metadata, **quantization}
    file = f"{name}-{dialect}.safetensors"
    save_file(
        {k: v.contiguous() for k, v in {**file_names(name, stored), **beside}.items()}, MODELS / file, metadata or None
    )
    reference = core_model(file_names(name, meant) | beside, small.metadata)
    if type(reference.model.model_config).__name__ != name:
        return {"refused": f"the harness built {type(reference.model.model_config).__name__}"}
    LOG.lines.clear()
    try:
        model, _, _, report = call(
            "LoadFP8Checkpoint", checkpoint=f"diffusion_models/{file}", compute="auto", activation_scale="dynamic"
        )
        off, where = worst(tensors_of(model), tensors_of(reference))
        want, got = forward(reference, name), forward(model, name)
        return {
            "weights": off,
            "where": where,
            "log": LOG.lines[:3],
            "report": report,
            "kept": len(quantized(model)),
            "of": sum(v.dtype == E4M3 and v.ndim == 2 for v in stored.values()),
            "error": error(got, want),
        }
    except Exception as problem:
        return {"refused": f"{type(problem).__name__}: {problem}"[:300]}
    finally:
        (MODELS / file).unlink()


def quantized(model) -> list[str]:
    return [name for name, tensor in tensors_of(model).items() if isinstance(tensor, QuantizedTensor)]


def saved(name: str, tensors: StateDict, beside: StateDict) -> dict:
    """Quantized in the graph, saved, and loaded by core alone."""
    small, file = SMALL[name], f"{name}.safetensors"
    save_file(
        {k: v.contiguous() for k, v in {**file_names(name, tensors), **beside}.items()},
        MODELS / file,
        small.metadata or None,
    )
    try:
        original = call("UNETLoader", unet_name=file, weight_dtype="default")[0]
        model, _ = call("QuantizeModel", model=original, method="fp8-dynamic", granularity="per-tensor", keep="")
        want = forward(model, name)
        call("SaveQuantizedModel", model=model, filename_prefix=f"diffusion_models/{name}-saved")
        path = sorted((BASE / "output" / "diffusion_models").glob(f"{name}-saved_*.safetensors"))[-1]
        LOG.lines.clear()
        core = comfy.sd.load_diffusion_model(str(path))
        lines = LOG.lines[:3]
        off, where = worst(tensors_of(core), tensors_of(model))
        found = {
            "weights": off,
            "where": where,
            "log": lines,
            "kept": len(quantized(core)),
            "settings": settings(core) == settings(original),
            "error": error(forward(core, name), want),
        }
        path.unlink()
        return found
    except Exception as problem:
        return {"refused": f"{type(problem).__name__}: {problem}"[:300]}
    finally:
        (MODELS / file).unlink()


def settings(model) -> dict:
    """What ComfyUI knows of a model beside its weights."""
    sampling = {k: v for k, v in vars(model.model.model_sampling).items() if isinstance(v, (bool, int, float))}
    return {
        "type": str(model.model.model_type),
        "class": type(model.model).__name__,
        **sampling,
        "zsnr": getattr(model.model.model_sampling, "zsnr", None),
    }


def figures(name: str) -> dict:
    found = {}
    model, beside = built(name)
    tensors = {k: v.clone() for k, v in model.diffusion_model.state_dict().items() if torch.is_tensor(v)}
    linears = linear_names(model.diffusion_model)
    del model
    with told(name):
        for dialect in REQUEST["dialects"]:
            try:
                if dialect == "saved":
                    found[dialect] = saved(name, tensors, beside)
                else:
                    found[dialect] = loaded(name, dialect, tensors, linears, beside)
            except Exception as problem:
                found[dialect] = {"refused": f"HARNESS {type(problem).__name__}: {problem}"[:300]}
            unload()

    return found


# small matrices: a second thread costs more than it does
torch.set_num_threads(1)
pack()
known = [cls.__name__ for cls in comfy.supported_models.models]
names = REQUEST.get("names") or [name for name in known if name in SMALL]
answer({
    "figures": {name: figures(name) for name in names if name in known},
    "new": [name for name in known if name not in SMALL and name not in TOO_LARGE],
})  # fmt: skip
