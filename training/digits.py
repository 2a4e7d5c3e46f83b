"""What the trainings share: scikit-learn's digits, the steps of a training, and who reads what was drawn."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import Tensor, nn


def digits() -> tuple[Tensor, Tensor]:
    """All images ``[1797, 8, 8]`` in [-1, 1] and their classes."""
    images, classes = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).view(-1, 8, 8) / 8 - 1, torch.tensor(classes)


Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Schedule:
    """decay: of the running average of the weights."""

    steps: int
    rate: float
    decay: float


def trained(model: Model, loss_of: Callable[[Model], Tensor], schedule: Schedule) -> Model:
    """The running average of the model's weights over the training; loss_of: of a batch that it draws."""
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.rate, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.rate, total_steps=schedule.steps, pct_start=0.05)
    start, running = time.time(), 1.0
    for step in range(schedule.steps):
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        follow(average, model, min(schedule.decay, (step + 1) / (step + 10)))
        running = 0.99 * running + 0.01 * loss.item()
        if step % 100 == 0:
            sys.stdout.write(f"step {step:5d}  loss {running:.4f}  {time.time() - start:4.0f} s\n")
            sys.stdout.flush()
    return average


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def readable(drawn: Tensor, asked: Tensor) -> float:
    """Share of drawn images ``[n, 8, 8]`` that a support vector machine reads as the digits asked for."""
    images, classes = digits()
    judge = SVC().fit(images.flatten(1).numpy(), classes.numpy())
    return float((judge.predict(drawn.clamp(-1, 1).flatten(1).numpy()) == asked.numpy()).mean())
