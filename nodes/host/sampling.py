"""One model sampled as core's KSampler does it, watched: what it predicts after each step, its time and its memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

SAMPLERS, SCHEDULERS = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
# chooses its steps by what the model says: those of two models have nothing to do with each other
ADAPTIVE = "dpm_adaptive"
SEEDS = 1 << 64
KEY = "scaled_fp8_compare"
Latent = tuple[Tensor, ...]  # one tensor, or those of a nested latent: video and sound


@dataclass(frozen=True)
class Request:
    """What is sampled, the same of each model; the inputs are those of core's KSampler."""

    positive: Any
    negative: Any
    latent: Mapping[str, Any]
    seed: int
    steps: int
    cfg: float = 1.0
    sampler_name: str = "euler"
    scheduler: str = "simple"

    def samples(self, model: ModelPatcher) -> Any:
        """The latent to start from, an empty one in the shape that the model takes."""
        ratios = (self.latent.get(f"downscale_ratio_{name}") for name in ("spacial", "temporal"))
        return comfy.sample.fix_empty_latent_channels(model, self.latent["samples"], *ratios)

    def noise(self, samples: Any, number: int) -> Any:
        return comfy.sample.prepare_noise(samples, self.seed_of(number), self.latent.get("batch_index"))

    def seed_of(self, number: int) -> int:
        return (self.seed + number) % SEEDS


@dataclass
class Clock:
    """Seconds of each step, the first apart, whatever is done between two steps."""

    first: list[float] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)
    began: float = 0.0
    fresh: bool = True

    def start(self) -> None:
        """A sampling begins: its weights are loaded by now."""
        self.began, self.fresh = perf_counter(), True

    def lap(self) -> None:
        (self.first if self.fresh else self.rest).append(perf_counter() - self.began)
        self.fresh = False

    def resume(self) -> None:
        self.began = perf_counter()

    @property
    def seconds_per_step(self) -> float | None:
        """Median over all samplings; None where no step was a second one."""
        return median(self.rest) if self.rest else None

    @property
    def first_step_seconds(self) -> float | None:
        """Of the first sampling, which warms up and compiles."""
        return self.first[0] if self.first else None


class Peak:
    """The most memory of a device that one model took: its weights there, and what its steps allocated beside them."""

    def __init__(self, device: torch.device) -> None:
        backend = getattr(torch, device.type, None)
        self.backend = backend if hasattr(backend, "reset_peak_memory_stats") else None
        self.device, self.before, self.most = device, 0, 0

    def start(self) -> None:
        if self.backend is not None:
            self.backend.reset_peak_memory_stats(self.device)
            self.before = self.backend.memory_allocated(self.device)

    def stop(self, model: ModelPatcher) -> None:
        if self.backend is not None:
            passing = self.backend.max_memory_allocated(self.device) - self.before
            self.most = max(self.most, model.loaded_size() + passing)

    @property
    def bytes(self) -> int | None:
        """None where a device does not tell, as a CPU."""
        return None if self.backend is None else self.most


@dataclass
class Sampled:
    """What came out. latent: as the sampler returns it; predictions: the latent as foreseen in each step."""

    latent: Any
    predictions: list[Latent]


class Subject:
    """A model under comparison: a clone of the one given, which stays as it is."""

    def __init__(self, model: ModelPatcher) -> None:
        self.model = model.clone()
        self.clock, self.peak = Clock(), Peak(model.load_device)
        self.model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, self.sampling)

    def sampling(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Around the sampler, inside of all that loads the model."""
        self.peak.start()
        self.clock.start()
        found = executor(*args, **kwargs)
        self.peak.stop(self.model)
        return found

    def run(self, request: Request, samples: Any, number: int, bar: Bar) -> Sampled:
        """Sample the noise of the seed of that number."""
        found: list[Latent] = []
        previews = previewer(self.model)

        def step(index: int, predicted: Any, x: Any, total: int) -> None:
            # once it is on the CPU the device has done the step
            here = predicted.cpu()
            self.clock.lap()
            found.append(parts(self.model.model.process_latent_out(here)))
            bar.step(index + 1, total, previews(predicted))
            self.clock.resume()

        latent = sample(self.model, request, samples, number, step)
        bar.turn(request.steps)
        return Sampled(latent, found)


def sample(
    model: ModelPatcher, request: Request, samples: Any, number: int, step: Callable[[int, Any, Any, int], None] | None
) -> Any:
    """The latent that core's KSampler gives out; step is called after each step, None: nobody is shown any."""
    return comfy.sample.sample(
        model, request.noise(samples, number), request.steps, request.cfg, request.sampler_name, request.scheduler,
        request.positive, request.negative, samples, noise_mask=request.latent.get("noise_mask"), callback=step,
        disable_pbar=step is None or not comfy.utils.PROGRESS_BAR_ENABLED, seed=request.seed_of(number),
    )  # fmt: skip


class Bar:
    """One progress bar over many samplings."""

    def __init__(self, total: int) -> None:
        self.bar, self.done, self.total = comfy.utils.ProgressBar(total), 0, total

    def step(self, index: int, total: int, preview: object = None) -> None:
        """A sampler's own step, of as many as it makes."""
        self.bar.update_absolute(self.done + min(index, total), self.total, preview)

    def turn(self, steps: int) -> None:
        """A sampling is done."""
        self.done += steps
        self.bar.update_absolute(self.done, self.total)

    def more(self, steps: int) -> None:
        self.total += steps


def previewer(model: ModelPatcher) -> Callable[[Any], object]:
    """What the editor shows of a latent while it is sampled, None where previews are off."""
    found = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    return lambda x: found.decode_latent_to_preview_image("JPEG", first(x)) if found else None


def first(x: Any) -> Tensor:
    """A latent, or the first of a nested one's."""
    return x.unbind()[0] if x.is_nested else x


def parts(x: Any) -> Latent:
    """A latent's tensors in float32 on the CPU."""
    return tuple(tensor.float().cpu() for tensor in (x.unbind() if x.is_nested else (x,)))
