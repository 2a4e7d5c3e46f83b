"""Trains the demo's model on scikit-learn's digits and writes quant/demo/digits.safetensors (bf16, seeded).

    pip install scikit-learn && python training/train_digits.py

About five minutes on two CPU cores. Ends with how a classifier that never saw the model reads its samples.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from digits import Schedule, digits, readable, trained
from safetensors.torch import save_file
from scaled_fp8.quant.demo.model import CLASSES, NO_CLASS, DigitsTransformer, sample
from torch import Tensor

TARGET = Path(__file__).parents[1] / "quant" / "demo" / "digits.safetensors"
SCHEDULE = Schedule(steps=3000, rate=2e-3, decay=0.999)
BATCH, SEED = 128, 0


def loss_of(model: DigitsTransformer, images: Tensor, classes: Tensor) -> Tensor:
    """Mean squared error of the velocity noise - image at random times; one class in ten is withheld."""
    noise = torch.randn_like(images)
    when = torch.sigmoid(torch.randn(len(images)))
    noisy = torch.lerp(images, noise, when[:, None, None])
    classes = torch.where(torch.rand(len(classes)) < 0.1, NO_CLASS, classes)
    return (model(noisy, when, classes) - (noise - images)).square().mean()


def train() -> DigitsTransformer:
    """The running average of the weights over the training."""
    images, classes = digits()

    def loss(model: DigitsTransformer) -> Tensor:
        pick = torch.randint(len(images), (BATCH,))
        return loss_of(model, images[pick], classes[pick])

    return trained(DigitsTransformer(), loss, SCHEDULE)


@torch.no_grad()
def drawn(model: DigitsTransformer) -> float:
    """Share of 200 samples that are readable."""
    asked = torch.arange(CLASSES).repeat(20)
    return readable(sample(model, torch.randn(len(asked), 8, 8), asked), asked)


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    model = train().bfloat16()
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, TARGET)
    sys.stdout.write(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes, {drawn(model):.1%} of 200 samples readable\n")


if __name__ == "__main__":
    main()
