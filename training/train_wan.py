"""Trains the tests' Wan on scikit-learn's digits: tests/data/digits-wan-bf16.safetensors and its conditioning.

    pip install scikit-learn && PYTHONPATH=COMFYUI python training/train_wan.py

In ComfyUI's environment, under ten minutes on one CPU core, seeded. The class is ComfyUI core's own, with a text of 64
channels and heads of 32, which the file's ``config`` says. One frame of a video is a digit of 32 x 32 pixels, four by
four of which are the channels of a latent: no autoencoder. Ends with how a classifier that never saw the model reads
what it draws.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.model_management  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from comfy.ldm.wan.model import WanModel  # noqa: E402
from digits import Schedule, digits, readable, trained  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

DATA = Path(__file__).parents[1] / "tests" / "data"
CONFIG = {"text_dim": 64, "num_heads": 4}  # what ComfyUI does not tell from the weights
SHAPE = {"model_type": "t2v", "dim": 128, "ffn_dim": 256, "num_layers": 4, "in_dim": 16, "out_dim": 16, "eps": 1e-6}
SCHEDULE = Schedule(steps=2400, rate=2e-3, decay=0.998)
BATCH, SEED = 64, 0
SHIFT, TOKENS, PIXELS = 3.0, 4, 4


def conditioning() -> Tensor:
    """``[10, 4, 64]``: a digit is one token of its own, then padding, as a text encoder's."""
    found = torch.zeros(10, TOKENS, CONFIG["text_dim"])
    found[:, 0] = torch.randn(10, CONFIG["text_dim"], generator=torch.Generator().manual_seed(SEED))
    return found


def latents(images: Tensor) -> Tensor:
    """``[n, 8, 8]`` -> ``[n, 16, 1, 8, 8]``."""
    large = F.interpolate(images[:, None], scale_factor=PIXELS, mode="bilinear")
    return F.pixel_unshuffle(large, PIXELS)[:, :, None]


def pictures(latents: Tensor) -> Tensor:
    """``[n, 16, 1, 8, 8]`` -> ``[n, 8, 8]``."""
    return F.avg_pool2d(F.pixel_shuffle(latents[:, :, 0], PIXELS), PIXELS)[:, 0]


def shifted(when: Tensor) -> Tensor:
    """Times in (0, 1), more of them noisy, as Wan is sampled."""
    return SHIFT * when / (1 + (SHIFT - 1) * when)


def new_model() -> WanModel:
    model = WanModel(**SHAPE, **CONFIG, operations=nn)
    for name, parameter in model.named_parameters():
        if name.endswith("modulation"):
            nn.init.normal_(parameter, std=SHAPE["dim"] ** -0.5)
    nn.init.zeros_(model.head.head.weight)
    return model


def loss_of(model: WanModel, clean: Tensor, context: Tensor) -> Tensor:
    """Mean squared error of the velocity noise - clean at random times."""
    noise, when = torch.randn_like(clean), shifted(torch.rand(len(clean)))
    noisy = torch.lerp(clean, noise, when.view(-1, 1, 1, 1, 1))
    return (model(noisy, when * 1000, context) - (noise - clean)).square().mean()


def train() -> WanModel:
    """The running average of the weights over the training."""
    images, classes = digits()
    clean, contexts = latents(images), conditioning()

    def loss(model: WanModel) -> Tensor:
        pick = torch.randint(len(clean), (BATCH,))
        return loss_of(model, clean[pick], contexts[classes[pick]])

    return trained(new_model(), loss, SCHEDULE)


@torch.no_grad()
def sample(model: WanModel, noise: Tensor, context: Tensor, steps: int = 12) -> Tensor:
    """Latents from noise by Euler's method."""
    times = shifted(torch.linspace(1, 0, steps + 1))
    for now, then in zip(times, times[1:], strict=False):
        noise = noise + (then - now) * model(noise, now.expand(len(noise)) * 1000, context)
    return noise


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    comfy.model_management.in_training = True  # its own rotation has no gradient otherwise
    model = train().bfloat16()
    stored = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    target = DATA / "digits-wan-bf16.safetensors"
    save_file(stored, target, {"config": json.dumps({"transformer": CONFIG})})
    contexts = conditioning()
    save_file(
        {str(digit): contexts[digit, None].clone() for digit in range(10)}, DATA / "digits-wan-conditioning.safetensors"
    )
    asked = torch.arange(10).repeat(20)
    drawn = sample(model.float(), torch.randn(200, 16, 1, 8, 8), contexts[asked])
    share = readable(pictures(drawn), asked)
    sys.stdout.write(f"{target.name}: {target.stat().st_size:,} bytes, {share:.1%} of 200 samples readable\n")


if __name__ == "__main__":
    main()
