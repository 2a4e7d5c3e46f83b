"""A sampling that is repeated with one thing changed, and how to know it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from .calibrations import plain
from .sampling import Request, parts, sample
from .watch import weights


@dataclass(frozen=True)
class Trial:
    """What is sampled, each time the same. groups: "layer" or "block", what is disturbed at a time."""

    request: Request
    groups: str = "layer"

    def run(self, model: ModelPatcher) -> Tensor:
        """Latents ``[images, numbers]``, float32 on the CPU."""
        found = sample(model, self.request, self.request.samples(model), 0, None)
        return torch.cat([part.flatten(1) for part in parts(found)], 1)

    def key(self, model: ModelPatcher) -> str:
        """What tells this measurement from others: the model's weights, its LoRAs and everything that is sampled."""
        asked = self.request
        how = (asked.steps, asked.seed, asked.cfg, asked.sampler_name, asked.scheduler, self.groups)
        found = sha256(repr(how).encode())
        for part in parts_of((asked.positive, asked.negative, asked.latent, model.patches)):
            found.update(part)
        for _, weight in weights(model):
            found.update(some_of(weight))
        return found.hexdigest()[:12]


def parts_of(value: object) -> Iterator[bytes]:
    """Bytes of all that a condition, a latent or a LoRA says, in order; some of each tensor."""
    if isinstance(value, Tensor):
        yield some_of(value)
    elif getattr(value, "is_nested", False):
        yield from parts_of(value.tensors)  # type: ignore[attr-defined]
    elif isinstance(value, dict):
        yield from (part for item in value.items() for part in parts_of(item))
    elif isinstance(value, list | tuple):
        yield from (part for item in value for part in parts_of(item))
    elif hasattr(value, "weights"):
        yield from parts_of(value.weights)
    elif isinstance(value, str | int | float | None):
        yield repr(value).encode()


def some_of(tensor: Tensor) -> bytes:
    whole = plain(tensor) if isinstance(tensor, QuantizedTensor) else tensor.detach()
    flat = whole.reshape(-1)
    return flat[:: max(1, flat.numel() // 64)].cpu().float().numpy().tobytes()
