"""Control nets: core reads them without scales; beside FP8 models they do what they do beside the bf16 model."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace

import comfy.cldm.cldm
import comfy.cldm.dit_embedder
import comfy.controlnet
import comfy.ldm.flux.controlnet
import comfy.ldm.qwen_image.controlnet
import comfy.ops
import comfy.supported_models
import comfy.t2i_adapter.adapter
import comfy.utils
import folder_paths
import torch
from inside import BASE, MODELS, answer, call, error, fp8, pack, refused, save_file, unet
from produced import StateDict, matrices, randomise, tensors_in, worst, written
from small_models import SMALL, built, told

torch.set_num_threads(1)
pack()
ENGINE = next(name for name in sys.modules if name.endswith("scaled-fp8.quant"))
quant = importlib.import_module(ENGINE)
native_tensors = importlib.import_module(f"{ENGINE}.weights.native").native_tensors
convert = importlib.import_module(f"{ENGINE}.conversion.converter").convert
FOLDER = BASE / "models" / "controlnet"
FOLDER.mkdir(exist_ok=True)
HOW = {"dtype": torch.bfloat16, "device": "cpu", "operations": comfy.ops.manual_cast}


def unet_net(name: str) -> torch.nn.Module:
    config = {**getattr(comfy.supported_models, name)(dict(SMALL[name].unet)).unet_config, **SMALL[name].unet}
    config.pop("out_channels", None)
    return comfy.cldm.cldm.ControlNet(**config, hint_channels=3, **HOW)


def sizes(name: str) -> dict:
    return {key: value for key, value in SMALL[name].unet.items() if key != "image_model"}


def sd35_net(double_y_emb: bool) -> torch.nn.Module:
    return comfy.cldm.dit_embedder.ControlNetEmbedder(
        img_size=None, patch_size=2, in_chans=16, num_layers=2, main_model_double=2, double_y_emb=double_y_emb,
        attention_head_dim=64, num_attention_heads=2, adm_in_channels=2048, **HOW,
    )  # fmt: skip


NETS = {
    "SD15": ("SD15", lambda: unet_net("SD15")),
    "SDXL": ("SDXL", lambda: unet_net("SDXL")),
    "FLUX of XLabs": ("Flux", lambda: comfy.ldm.flux.controlnet.ControlNetFlux(**sizes("Flux"), **HOW)),
    "SD 3.5": ("SD3", lambda: sd35_net(double_y_emb=False)),
    "SD 3.5 with the model's embedder": ("SD3", lambda: sd35_net(double_y_emb=True)),
    "Qwen-Image of InstantX": ("QwenImage", lambda: comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(
        **sizes("QwenImage"), **HOW
    )),
    "Qwen-Image Fun": ("QwenImage", lambda: comfy.ldm.qwen_image.controlnet.QwenImageFunControlNetModel(
        control_in_features=132, inner_dim=256, num_attention_heads=2, attention_head_dim=128, **HOW,
    )),
}  # fmt: skip


def tensors_of(module: torch.nn.Module) -> StateDict:
    torch.manual_seed(0)
    randomise(module)
    named = {name.replace("norm.weight", "norm.scale"): tensor for name, tensor in module.state_dict().items()}
    xlabs = "double_blocks.0.img_attn.norm.key_norm.scale" in named
    return {name: tensor.clone() for name, tensor in (named if xlabs else module.state_dict()).items()}


def put(name: str, tensors: StateDict, metadata: dict[str, str] | None = None, folder=FOLDER) -> str:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name, metadata or None)
    folder_paths.filename_list_cache.clear()
    return str(folder / name)


def read_by_core(path: str) -> StateDict:
    return tensors_in(comfy.controlnet.load_controlnet(path).control_model)


def figures(name: str) -> dict:
    family, make = NETS[name]
    with told(family):
        tensors = tensors_of(make())
        found = {"converted": refused(convert, put("net.safetensors", tensors), FOLDER / "no.safetensors", "int8")}
        for dialect in ("ltx", "cast"):
            stored, header, meant = written(dialect, tensors, matrices(tensors))
            path, want = put("net.safetensors", stored, header), read_by_core(put("meant.safetensors", meant))
            found[dialect] = worst(read_by_core(path), want)[0]
            put("net.safetensors", stored, header, MODELS)
            found[f"{dialect}, as a model"] = refused(fp8, "net.safetensors")
        stored, header, meant = written("ltx", tensors, matrices(tensors))
        whole = FOLDER / "whole.safetensors"
        whole.unlink(missing_ok=True)
        convert(put("net.safetensors", stored, header), whole, "bfloat16")
        found["dequantized"] = worst(read_by_core(str(whole)), want_of(meant))[0]
    return found


def want_of(meant: StateDict) -> StateDict:
    return read_by_core(put("meant.safetensors", meant))


##### Sampling with one


class Encoder:
    """Stands in for the VAE that some nets read their image by."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def spacial_compression_encode(self) -> int:
        return 8

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(6))


# width of the pooled prompt, where a family has one
POOLED = {"SDXL": 1280, "Flux": 32, "SD3": 2048}


def prompt(family: str, generator: torch.Generator) -> list:
    pooled = torch.randn(1, POOLED.get(family, 1), generator=generator)
    return [[torch.randn(SMALL[family].context, generator=generator), {"pooled_output": pooled}]]


def sampled(model, net, family: str) -> torch.Tensor:
    generator, shape = torch.Generator().manual_seed(2), SMALL[family].x
    positive, negative = prompt(family, generator), prompt(family, generator)
    if net is not None:
        image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(5))
        positive, negative = call(
            "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=net, image=image,
            strength=1.0, start_percent=0.0, end_percent=1.0, vae=Encoder(shape) if net.latent_format else None,
        )  # fmt: skip
    out = call(
        "KSampler", model=model, seed=7, steps=2, cfg=2.0, sampler_name="euler", scheduler="simple",
        positive=positive, negative=negative, latent_image={"samples": torch.zeros(shape)},
    )  # fmt: skip
    return out[0]["samples"].float()


def net_of(name: str, tensors: StateDict) -> StateDict:
    return tensors_of(NETS[name][1]())


def lora_net(name: str, tensors: StateDict) -> StateDict:
    """A control LoRA on the attention of the model that it is used with, which core makes a control net of."""
    generator, found = torch.Generator().manual_seed(3), {"lora_controlnet": torch.tensor([])}
    for name, tensor in net_of("SD15", tensors).items():
        if "attn1.to_q.weight" in name or "attn2.to_k.weight" in name:
            stem = name.removesuffix(".weight")
            found[f"{stem}.up"] = torch.randn(tensor.shape[0], 4, generator=generator) / 16
            found[f"{stem}.down"] = torch.randn(4, tensor.shape[1], generator=generator) / 8
        elif any(part in name for part in ("zero_convs", "input_hint_block", "middle_block_out")):
            found[name] = tensor
    return found


def difference_net(name: str, tensors: StateDict) -> StateDict:
    """A control net that is stored as what it adds to the model that it is used with."""
    generator = torch.Generator().manual_seed(4)
    stored = {
        name: torch.randn(tensor.shape, generator=generator) * tensor.std() / 8 if name in tensors else tensor
        for name, tensor in net_of("SD15", tensors).items()
    }
    return {"difference": torch.tensor([]), **{f"control_model.{name}": tensor for name, tensor in stored.items()}}


def adapter(name: str, tensors: StateDict) -> StateDict:
    sizes = {"cin": 192, "channels": [64, 128, 256, 256], "nums_rb": 2, "ksize": 1, "sk": True}
    return tensors_of(comfy.t2i_adapter.adapter.Adapter(**sizes, use_conv=False, xl=False))


# what is sampled with -> its family, and what its file holds, by its name and the model's tensors
MADE = {"lora": ("SD15", lora_net), "difference": ("SD15", difference_net), "T2I adapter": ("SDXL", adapter)}
CONTROLS = {name: (family, net_of) for name, (family, _) in NETS.items()} | MADE


def smoothed(tensors: StateDict) -> tuple[StateDict, StateDict]:
    """A file in core's NVFP4 whose activations are smoothed, and the weights that it means."""
    stored, meant = dict(tensors), dict(tensors)
    for name in sorted(matrices(tensors)):
        weight = tensors[name].float()
        smooth = 0.5 + torch.rand(weight.shape[1], generator=torch.Generator().manual_seed(8))
        made = quant.quantize(weight / smooth, quant.FORMATS["nvfp4"])
        del stored[name]
        stored |= native_tensors(replace(made, smooth=smooth), name.removesuffix("weight"))
        meant[name] = (made.dequantize().float() * smooth).to(tensors[name].dtype)
    return stored, meant


def models_of(family: str) -> tuple[StateDict, dict]:
    """A model's tensors, and by what was done to it the model and the one that it means."""
    model, _ = built(family)
    tensors = {name: tensor.clone() for name, tensor in model.diffusion_model.state_dict().items()}
    stored, header, meant = written("ltx", tensors, matrices(tensors))
    put("plain.safetensors", tensors, folder=MODELS), put("ltx.safetensors", stored, header, MODELS)
    put("meant.safetensors", meant, folder=MODELS)
    stored, meant = smoothed(tensors)
    put("smooth.safetensors", stored, folder=MODELS), put("smooth-meant.safetensors", meant, folder=MODELS)
    how = {"method": "int8", "granularity": "default", "keep": ""}
    return tensors, {
        "smoothed": (fp8("smooth.safetensors", compute="upcast")[0], unet("smooth-meant.safetensors")),
        "loaded": (fp8("ltx.safetensors", compute="upcast")[0], unet("meant.safetensors")),
        "quantized": (call("QuantizeModel", model=unet("plain.safetensors"), **how)[0], unet("plain.safetensors")),
    }


def beside_models(family: str) -> dict:
    """Latents with each kind of control, of each kind of model beside the one that it means."""
    found = {}
    with told(family):
        tensors, models = models_of(family)
        for which, (_, make) in CONTROLS.items():
            if CONTROLS[which][0] == family:
                path = put("control.safetensors", make(which, tensors))
                found |= {f"{kind}, {which}": beside_model(path, family, *pair) for kind, pair in models.items()}
    return found


def beside_model(path: str, family: str, ours, reference) -> dict[str, float | str]:
    # the same net with one model after the other, but for what is made of a model while it is loaded
    net = comfy.controlnet.load_controlnet(path, reference)
    want = sampled(reference, net, family)
    own = comfy.controlnet.load_controlnet(path, ours) if "difference" in comfy.utils.load_torch_file(path) else net
    got = attempt(ours, own, want, family)
    again = error(sampled(reference, net, family), want)
    return {"error": got, "effect": error(want, sampled(reference, None, family)), "again": again}


def attempt(model, net, want: torch.Tensor, family: str) -> float | str:
    try:
        return error(sampled(model, net, family), want)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"


families = dict.fromkeys(family for family, _ in CONTROLS.values())
answer({
    "nets": {name: figures(name) for name in NETS},
    "beside": {case: found for family in families for case, found in beside_models(family).items()},
})  # fmt: skip
