"""Small models by diffusers' names: separate q, k and v with a scale each, which ComfyUI fuses to one weight.

A FLUX.1 is run; of a Stable Diffusion 3, whose scales and shifts of the last norms ComfyUI swaps, weights are compared.
"""

from __future__ import annotations

import importlib
import sys

import comfy.ldm.flux.model
import comfy.ldm.modules.diffusionmodules.mmdit as mmdit
import comfy.ops
from comfy.quant_ops import QuantizedTensor
from inside import MODELS, answer, comfy, error, fp8, load, pack, refused, save_file, torch, unet, unload

HIDDEN, CONTEXT = 256, 64
SWAPPED = ("final_layer.adaLN_modulation.1.weight", "joint_blocks.1.context_block.adaLN_modulation.1.weight")
CONFIG = {"depth": 1, "depth_single_blocks": 1, "hidden_size": HIDDEN}


def flux() -> dict[str, torch.Tensor]:
    """Random weights of a FLUX.1 by ComfyUI's names."""
    torch.manual_seed(0)
    model = comfy.ldm.flux.model.Flux(
        image_model="flux", in_channels=16, out_channels=16, vec_in_dim=32, context_in_dim=CONTEXT, hidden_size=HIDDEN,
        mlp_ratio=4.0, num_heads=2, depth=1, depth_single_blocks=1, axes_dim=[16, 56, 56], theta=10000, patch_size=2,
        qkv_bias=True, guidance_embed=False, txt_ids_dims=[], dtype=torch.bfloat16, device="cpu",
        operations=comfy.ops.manual_cast,
    )  # fmt: skip
    return random_weights(model)


def sd3() -> dict[str, torch.Tensor]:
    """Random weights of a Stable Diffusion 3 of two blocks by ComfyUI's names."""
    torch.manual_seed(0)
    model = mmdit.OpenAISignatureMMDITWrapper(
        in_channels=16, patch_size=2, out_channels=16, depth=2, input_size=None, adm_in_channels=64, num_patches=64,
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128}},
        pos_embed_max_size=8, dtype=torch.bfloat16, device="cpu", operations=comfy.ops.manual_cast,
    )  # fmt: skip
    return random_weights(model)


def random_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        key: torch.ones_like(tensor) if tensor.ndim == 1 and "norm" in key else noise(tensor)
        for key, tensor in model.state_dict().items()
    }


def noise(tensor: torch.Tensor) -> torch.Tensor:
    size = tensor.shape[-1] ** -0.5 if tensor.ndim == 2 else 0.02
    return (torch.randn(tensor.shape) * size).to(torch.bfloat16)


def by_diffusers_names(weights: dict[str, torch.Tensor], names: dict) -> dict[str, torch.Tensor]:
    """ComfyUI's own map, read backwards; what it does to a weight, a swap of halves, undoes itself."""
    named = {}
    for name, target in names.items():
        key, offset, *function = (target, None) if isinstance(target, str) else target
        if key in weights and "ff.linear" not in name and "linear_in" not in name and "linear_out" not in name:
            part = weights[key] if offset is None else weights[key].narrow(*offset)
            named[name] = (function[0](part) if function else part).clone()
    named.pop("single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight", None)
    named.pop("single_transformer_blocks.0.attn.to_out.weight", None)
    return named


def quantized(tensors: dict[str, torch.Tensor], per_row: bool) -> dict[str, torch.Tensor]:
    """Every matrix with its own scale, without a marker."""
    out = dict(tensors)
    for key, weight in tensors.items():
        if weight.ndim == 2:
            amax = weight.float().abs().amax(dim=1, keepdim=True) if per_row else weight.float().abs().amax()
            out[key + "_scale"] = amax / 448
            out[key] = (weight.float() / out[key + "_scale"]).to(torch.float8_e4m3fn)
    return out


def velocity(model) -> torch.Tensor:
    load(model)
    generator = torch.Generator().manual_seed(3)
    x, t = torch.randn(1, 16, 8, 8, generator=generator), torch.tensor([0.6])
    context = torch.randn(1, 5, CONTEXT, generator=generator)
    pooled = torch.randn(1, 32, generator=generator)
    denoised = model.model.apply_model(x, t, c_crossattn=context, y=pooled, guidance=torch.tensor([3.5]))
    unload()
    return (x - denoised.float()) / 0.6


def dequantized(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the quantized file means, for a reader that knows nothing of scales."""
    scales = {key.removesuffix("_scale"): tensor for key, tensor in tensors.items() if key.endswith("_scale")}
    plain = {key: tensor for key, tensor in tensors.items() if not key.endswith("_scale")}
    return plain | {key: plain[key].float() * scale for key, scale in scales.items()}


def figures(name: str, per_row: bool) -> dict:
    """Errors against core on the dequantized file, and whether fusing changed a value."""
    tensors = quantized(by_diffusers_names(flux(), comfy.utils.flux_to_diffusers(CONFIG)), per_row)
    meant = dequantized(tensors)
    save_file(tensors, MODELS / f"{name}.safetensors")
    save_file(meant, MODELS / f"{name}-meant.safetensors")
    want = velocity(unet(f"{name}-meant.safetensors"))
    model, _, _, report = fp8(f"{name}.safetensors")
    weight = model.get_model_object("diffusion_model.double_blocks.0.img_attn.qkv.weight")
    stem = "transformer_blocks.0.attn"
    parts = torch.cat([meant[f"{stem}.to_{part}.weight"] for part in "qkv"])
    return {
        "scaled_mm": error(velocity(model), want),
        "upcast": error(velocity(fp8(f"{name}.safetensors", compute="upcast")[0]), want),
        "granularity": weight._params.granularity.name,
        "exact": torch.equal(weight.to(dtype=torch.float32).dequantize(), parts),
        "report": report,
    }


def swapped(name: str, per_row: bool) -> dict:
    """How far off weights are beside core on the dequantized file, and which of the halves that moved are scaled."""
    names = comfy.utils.mmdit_to_diffusers({"depth": 2, "num_blocks": 2})
    tensors = quantized(by_diffusers_names(sd3(), names), per_row)
    save_file(tensors, MODELS / f"{name}.safetensors")
    save_file({k: v.bfloat16() for k, v in dequantized(tensors).items()}, MODELS / f"{name}-meant.safetensors")
    want = unet(f"{name}-meant.safetensors").model.diffusion_model.state_dict()
    model, _, _, report = fp8(f"{name}.safetensors")
    got = dict(model.model.diffusion_model.named_parameters())
    scaled = [key for key in SWAPPED if isinstance(got[key], QuantizedTensor)]
    off = {k: error(plain(got[k]), v.float()) for k, v in want.items() if k in got and v.ndim == 2}
    return {"off": max(off.values()), "of": len(off), "scaled": scaled, "report": report}


def plain(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor).float()


def converted() -> dict:
    """What convert says of such a file, and how far off core is on what it writes when it is told to."""
    engine = next(name for name in sys.modules if name.endswith("scaled-fp8.quant"))
    request = importlib.import_module(f"{engine}.conversion.request").Request("float8_e4m3fn", unsupported=True)
    convert = importlib.import_module(f"{engine}.conversion.converter").convert
    tensors = by_diffusers_names(flux(), comfy.utils.flux_to_diffusers(CONFIG))
    files = [MODELS / f"diffusers-{kind}.safetensors" for kind in ("bf16", "converted")]
    save_file(tensors, files[0])
    said = refused(convert, *files, "float8_e4m3fn")
    convert(*files, request)
    want = velocity(unet(files[0].name))
    core, here = (velocity(read(files[1].name)) for read in (unet, lambda name: fp8(name)[0]))
    return {"said": said, "core": error(core, want), "here": error(here, want)}


pack()
answer({
    "converted": converted(),
    "per-tensor": figures("diffusers-tensor", False),
    "per-row": figures("diffusers-row", True),
    "swapped per-tensor": swapped("diffusers-swapped", False),
    "swapped per-row": swapped("diffusers-swapped-row", True),
})  # fmt: skip
