"""Control nets: core reads them without scales; beside FP8 models they do what they do beside the bf16 model."""

from __future__ import annotations

import importlib
import sys

import comfy.cldm.cldm
import comfy.cldm.dit_embedder
import comfy.controlnet
import comfy.ldm.flux.controlnet
import comfy.ldm.qwen_image.controlnet
import comfy.ops
import comfy.supported_models
import folder_paths
import torch
from inside import BASE, MODELS, answer, call, error, fp8, pack, refused, save_file, unet
from produced import StateDict, matrices, randomise, tensors_in, worst, written
from small_models import SMALL, built, told

torch.set_num_threads(1)
pack()
ENGINE = next(name for name in sys.modules if name.endswith("scaled-fp8.quant"))
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


NETS = {
    "SD15": ("SD15", lambda: unet_net("SD15")),
    "SDXL": ("SDXL", lambda: unet_net("SDXL")),
    "FLUX of XLabs": ("Flux", lambda: comfy.ldm.flux.controlnet.ControlNetFlux(**sizes("Flux"), **HOW)),
    "SD 3.5": ("SD3", lambda: comfy.cldm.dit_embedder.ControlNetEmbedder(
        img_size=None, patch_size=2, in_chans=16, num_layers=2, main_model_double=2, double_y_emb=False,
        attention_head_dim=64, num_attention_heads=2, adm_in_channels=2048, **HOW,
    )),
    "Qwen-Image of InstantX": ("QwenImage", lambda: comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(
        **sizes("QwenImage"), **HOW
    )),
    "Qwen-Image Fun": ("QwenImage", lambda: comfy.ldm.qwen_image.controlnet.QwenImageFunControlNetModel(
        control_in_features=132, inner_dim=128, num_attention_heads=2, attention_head_dim=64, **HOW,
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


def sampled(model, net) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    positive, negative = ([[torch.randn(SMALL["SD15"].context, generator=generator), {}]] for _ in range(2))
    if net is not None:
        image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(5))
        positive, negative = call(
            "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=net, image=image,
            strength=1.0, start_percent=0.0, end_percent=1.0,
        )  # fmt: skip
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    out = call(
        "KSampler", model=model, seed=7, steps=2, cfg=2.0, sampler_name="euler", scheduler="simple",
        positive=positive, negative=negative, latent_image=latent,
    )  # fmt: skip
    return out[0]["samples"].float()


def lora_net(tensors: StateDict) -> StateDict:
    """A control LoRA on the attention of the model that it is used with, which core makes a control net of."""
    generator, found = torch.Generator().manual_seed(3), {"lora_controlnet": torch.tensor([])}
    for name, tensor in tensors.items():
        if "attn1.to_q.weight" in name or "attn2.to_k.weight" in name:
            stem = name.removesuffix(".weight")
            found[f"{stem}.up"] = torch.randn(tensor.shape[0], 4, generator=generator) / 16
            found[f"{stem}.down"] = torch.randn(4, tensor.shape[1], generator=generator) / 8
        elif any(part in name for part in ("zero_convs", "input_hint_block", "middle_block_out")):
            found[name] = tensor
    return found


def difference_net(tensors: StateDict, net: StateDict) -> StateDict:
    """A control net that is stored as what it adds to the model that it is used with."""
    generator = torch.Generator().manual_seed(4)
    stored = {
        name: torch.randn(tensor.shape, generator=generator) * tensor.std() / 8 if name in tensors else tensor
        for name, tensor in net.items()
    }
    return {"difference": torch.tensor([]), **{f"control_model.{name}": tensor for name, tensor in stored.items()}}


def beside_models() -> dict:
    """Latents with each kind of control, of each kind of model beside the one that it means."""
    with told("SD15"):
        model, _ = built("SD15")
        tensors = {name: tensor.clone() for name, tensor in model.diffusion_model.state_dict().items()}
        stored, header, meant = written("ltx", tensors, matrices(tensors))
        put("sd.safetensors", tensors, folder=MODELS), put("sd-ltx.safetensors", stored, header, MODELS)
        put("sd-meant.safetensors", meant, folder=MODELS)
        net = tensors_of(NETS["SD15"][1]())
        plain, lora = put("net.safetensors", net), put("lora.safetensors", lora_net(net))
        put("difference.safetensors", difference_net(tensors, net))
        how = {"method": "int8", "granularity": "default", "keep": ""}
        models = {
            "loaded": (fp8("sd-ltx.safetensors", compute="upcast")[0], unet("sd-meant.safetensors")),
            "quantized": (call("QuantizeModel", model=unet("sd.safetensors"), **how)[0], unet("sd.safetensors")),
        }
        loaded = {"net": comfy.controlnet.load_controlnet(plain), "lora": comfy.controlnet.load_controlnet(lora)}
        nets = {which: lambda model, net=net: net for which, net in loaded.items()} | {"difference": by_difference}
        return {
            f"{kind}, {which}": {
                "error": attempt(ours, net_of(ours), want := sampled(reference, net_of(reference))),
                "effect": error(want, sampled(reference, None)),
            }
            for kind, (ours, reference) in models.items()
            for which, net_of in nets.items()
        }


def by_difference(model):
    return call("DiffControlNetLoader", model=model, control_net_name="difference.safetensors")[0]


def attempt(model, net, want: torch.Tensor) -> float | str:
    try:
        return error(sampled(model, net), want)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"


answer({"nets": {name: figures(name) for name in NETS}, "beside": beside_models()})
