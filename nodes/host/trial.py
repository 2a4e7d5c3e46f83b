"""A sampling that is repeated with one thing changed, and how to know it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from .calibrations import plain
from .watch import weights

SAMPLERS, SCHEDULERS = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS


@dataclass(frozen=True)
class Sampling:
    """What is sampled, each time the same. groups: "layer" or "block", what is disturbed at a time."""

    positive: Any
    negative: Any
    latent: Mapping[str, Any]
    steps: int
    seed: int
    cfg: float = 1.0
    sampler_name: str = "euler"
    scheduler: str = "simple"
    groups: str = "layer"

    def run(self, model: ModelPatcher) -> Tensor:
        """Latents, flattened, float32 on the CPU."""
        ratios = (self.latent.get(f"downscale_ratio_{kind}") for kind in ("spacial", "temporal"))
        samples = comfy.sample.fix_empty_latent_channels(model, self.latent["samples"], *ratios)
        noise = comfy.sample.prepare_noise(samples, self.seed, self.latent.get("batch_index"))
        found = comfy.sample.sample(
            model, noise, self.steps, self.cfg, self.sampler_name, self.scheduler, self.positive, self.negative,
            samples, noise_mask=self.latent.get("noise_mask"), disable_pbar=True, seed=self.seed,
        )  # fmt: skip
        parts = found.tensors if found.is_nested else [found]
        return torch.cat([part.float().cpu().flatten() for part in parts])

    def key(self, model: ModelPatcher) -> str:
        """What tells this measurement from others: the model's weights, its LoRAs and everything that is sampled."""
        how = (self.steps, self.seed, self.cfg, self.sampler_name, self.scheduler, self.groups)
        found = sha256(repr(how).encode())
        for part in parts_of((self.positive, self.negative, self.latent, model.patches)):
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
