"""Small builds of ComfyUI's own architectures in every dialect, beside core on what each file means."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "support"))

import comfy.sd
import comfy.supported_models
import torch
from architectures import SMALL, TOO_LARGE
from comfy.quant_ops import QuantizedTensor
from inside import BASE, MODELS, REQUEST, answer, call, error, pack, save_file, unload
from produced import E4M3, LOG, StateDict, linear_names, worst, written
from safetensors.torch import load_file
from small_models import built, core_model, file_names, forward, tensors_of, told

##### What is compared


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


def converted(name: str, tensors: StateDict, beside: StateDict) -> dict:
    """Quantized by convert as checkpoints name it, and loaded by core alone."""
    small, files = SMALL[name], [MODELS / f"{name}{kind}.safetensors" for kind in ("", "-converted")]
    prefix = "" if beside else "model.diffusion_model."
    named = {prefix + key: value.contiguous() for key, value in file_names(name, tensors).items()}
    save_file({**named, **beside}, files[0], small.metadata or None)
    engine = next(module for module in sys.modules if module.endswith("scaled-fp8.quant"))
    try:
        importlib.import_module(f"{engine}.conversion.converter").convert(*files, "float8_e4m3fn")
        reference = core_model(dequantized(load_file(files[1])), small.metadata)
        LOG.lines.clear()
        core = comfy.sd.load_diffusion_model(str(files[1]))
        lines = LOG.lines[:3]
        off, where = worst(tensors_of(core), tensors_of(reference))
        found = {"weights": off, "where": where, "log": lines, "kept": len(quantized(core))}
        return {**found, "error": error(forward(core, name), forward(reference, name))}
    except Exception as problem:
        return {"refused": f"{type(problem).__name__}: {problem}"[:300]}
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def dequantized(stored: StateDict) -> StateDict:
    """What a file by core's format means, by plain arithmetic."""
    layers = [key.removesuffix(".comfy_quant") for key in stored if key.endswith(".comfy_quant")]
    meant = {key: tensor for key, tensor in stored.items() if not key.endswith((".comfy_quant", ".weight_scale"))}
    for layer in layers:
        value = stored[f"{layer}.weight"].float() * stored[f"{layer}.weight_scale"].float()
        meant[f"{layer}.weight"] = value.to(torch.bfloat16)
    return meant


def settings(model) -> dict:
    """What ComfyUI knows of a model beside its weights."""
    sampling = {k: v for k, v in vars(model.model.model_sampling).items() if isinstance(v, (bool, int, float))}
    return {
        "type": str(model.model.model_type),
        "class": type(model.model).__name__,
        **sampling,
        "zsnr": getattr(model.model.model_sampling, "zsnr", None),
    }


WRITTEN_HERE = {"saved": saved, "converted": converted}


def figures(name: str) -> dict:
    found = {}
    model, beside = built(name)
    tensors = {k: v.clone() for k, v in model.diffusion_model.state_dict().items() if torch.is_tensor(v)}
    linears = linear_names(model.diffusion_model)
    del model
    with told(name):
        for dialect in REQUEST["dialects"]:
            try:
                if dialect in WRITTEN_HERE:
                    found[dialect] = WRITTEN_HERE[dialect](name, tensors, beside)
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
