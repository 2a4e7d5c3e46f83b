"""Trains the demo's model on scikit-learn's digits and writes quant/demo/digits.safetensors (bf16, seeded).

    pip install scikit-learn && python training/train_digits.py

About five minutes on two CPU cores. Ends with how a classifier that never saw the model reads its samples.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from scaled_fp8.quant.demo.model import CLASSES, NO_CLASS, DigitsTransformer, sample
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import Tensor

TARGET = Path(__file__).parents[1] / "quant" / "demo" / "digits.safetensors"
STEPS, BATCH, RATE, DECAY, SEED = 3000, 128, 2e-3, 0.999, 0


def digits() -> tuple[Tensor, Tensor]:
    """All images ``[1797, 8, 8]`` in [-1, 1] and their classes."""
    images, classes = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).view(-1, 8, 8) / 8 - 1, torch.tensor(classes)


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
    model = DigitsTransformer()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.05)
    start, running = time.time(), 1.0
    for step in range(STEPS):
        pick = torch.randint(len(images), (BATCH,))
        loss = loss_of(model, images[pick], classes[pick])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        follow(average, model, min(DECAY, (step + 1) / (step + 10)))
        running = 0.99 * running + 0.01 * loss.item()
        if step % 250 == 0:
            sys.stdout.write(f"step {step:5d}  loss {running:.4f}  {time.time() - start:4.0f} s\n")
            sys.stdout.flush()
    return average


@torch.no_grad()
def follow(average: DigitsTransformer, model: DigitsTransformer, decay: float) -> None:
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def readable(model: DigitsTransformer) -> float:
    """Share of 200 samples that a support vector machine reads as the digit asked for."""
    images, classes = digits()
    judge = SVC().fit(images.flatten(1).numpy(), classes.numpy())
    asked = torch.arange(CLASSES).repeat(20)
    drawn = sample(model, torch.randn(len(asked), 8, 8), asked).clamp(-1, 1)
    return float((judge.predict(drawn.flatten(1).numpy()) == asked.numpy()).mean())


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    model = train().bfloat16()
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, TARGET)
    sys.stdout.write(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes, {readable(model):.1%} of 200 samples readable\n")


if __name__ == "__main__":
    main()
