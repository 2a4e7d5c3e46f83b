"""An all-in-one checkpoint: the diffusion model in the LTX dialect, and a VAE in bf16, in one file."""

from __future__ import annotations

import comfy.sd
import torch
from inside import BASE, BF16, MODELS, answer, call, error, forward, fp8, pack, unet, write_fp8
from safetensors.torch import load_file, save_file

pack()
want = forward(unet(BF16))
write_fp8("part.safetensors", marked=False)
tensors = {f"model.diffusion_model.{k}": v for k, v in load_file(MODELS / "part.safetensors").items()}
vae_tensors = {}
for half in ("encoder", "decoder"):
    part = load_file(BASE / "models" / "vae_approx" / f"taef2_{half}.safetensors")
    vae_tensors |= {f"taesd_{half}.{k}": v for k, v in part.items()}
tensors |= {f"vae.{k}": v for k, v in vae_tensors.items()}
save_file(tensors, BASE / "models" / "checkpoints" / "all-in-one.safetensors")
model, clip, vae, report = fp8("all-in-one.safetensors", folder="checkpoints")
figures = {"error": error(forward(model), want), "clip": clip is not None, "vae": vae is not None, "report": report}
bare = call(
    "LoadFP8Checkpoint", checkpoint="diffusion_models/part.safetensors", compute="auto", activation_scale="dynamic"
)
figures["bare"] = [part is None for part in bare[1:3]]
latents = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0))
if vae is not None:
    own = comfy.sd.VAE(sd=dict(vae_tensors))
    figures["pixels"] = error(vae.decode(latents), own.decode(latents))
answer(figures)
