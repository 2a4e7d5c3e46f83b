"""Fits how the tests' autoencoder reads the digits model's latents: tests/data/digits-autoencoder.safetensors.

    pip install scikit-learn && PYTHONPATH=COMFYUI python training/fit_autoencoder.py

In ComfyUI's environment, under a minute. A rectified flow's first step, from noise alone, predicts the mean of what it
learned: for each digit the mean latent. One convolution of 3 x 3 is fitted from these to the mean images, one back.
"""

from __future__ import annotations

import sys
from pathlib import Path

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from torch import Tensor  # noqa: E402

DATA = Path(__file__).parents[1] / "tests" / "data"
CHANNELS, BATCH, SEED, RIDGE = 32, 32, 0, 1.0


def mean_images() -> Tensor:
    """``[10, 1, 8, 8]`` in [0, 1]: drawn at 64 x 64 as the model learned them, and eight by eight pixels averaged."""
    images, classes = load_digits(return_X_y=True)
    images, classes = torch.tensor(images).float().view(-1, 8, 8) / 16, torch.tensor(classes)
    means = torch.stack([images[classes == digit].mean(0) for digit in range(10)])
    return F.avg_pool2d(F.interpolate(means[:, None], size=(64, 64), mode="bilinear"), 8)


def mean_latents() -> Tensor:
    """``[10, 32, 8, 8]``, what the model makes of noise in one step, two by two tokens unfolded."""
    model = comfy.sd.load_diffusion_model(str(DATA / "digits-flux2-bf16.safetensors"))
    comfy.model_management.load_models_gpu([model])
    contexts = load_file(DATA / "digits-conditioning.safetensors")
    noise = torch.randn(BATCH, 128, 4, 4, generator=torch.Generator().manual_seed(SEED))
    found = [predicted(model.model, noise, contexts[str(digit)]) for digit in range(10)]
    return torch.stack(found).view(10, CHANNELS, 2, 2, 4, 4).permute(0, 1, 4, 2, 5, 3).reshape(10, CHANNELS, 8, 8)


def predicted(model: torch.nn.Module, noise: Tensor, context: Tensor) -> Tensor:
    contexts = context.expand(len(noise), -1, -1)
    return model.apply_model(noise, torch.ones(len(noise)), c_crossattn=contexts).float().mean(0)


def seen(pictures: Tensor) -> Tensor:
    """``[n, channels, 8, 8]`` -> ``[n * 64, channels * 9 + 1]``: what a 3 x 3 convolution sees at each place, and 1."""
    patches = F.unfold(pictures, 3, padding=1).transpose(1, 2).flatten(0, 1)
    return torch.cat([patches, torch.ones(len(patches), 1)], 1)


def fitted(name: str, pictures: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """The convolution from pictures to wanted by ridge regression."""
    inputs, outputs = seen(pictures), wanted.movedim(1, -1).flatten(0, 2)
    found = torch.linalg.solve(inputs.T @ inputs + RIDGE * torch.eye(inputs.shape[1]), inputs.T @ outputs)
    rest = 1 - ((inputs @ found - outputs).var() / outputs.var()).item()
    sys.stdout.write(f"{name}: {rest:.3f} of the variance explained\n")
    weight = found[:-1].T.reshape(wanted.shape[1], pictures.shape[1], 3, 3)
    return {f"{name}.weight": weight.contiguous(), f"{name}.bias": found[-1].contiguous()}


@torch.inference_mode()
def main() -> None:
    latents, images = mean_latents(), mean_images()
    # the decoder's first step clamps so
    clamped = torch.tanh(latents / 3) * 3
    found = fitted("encoder", images, latents) | fitted("decoder", clamped, images)
    save_file(found, DATA / "digits-autoencoder.safetensors")


if __name__ == "__main__":
    main()
