"""Two models sampled in turn from the same noise, and what differs: latents, pictures, layers, time and memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any

import comfy.model_management as management
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor

from ...quant.errors import Refused, first_line
from ...quant.quality import sqnr
from ...quant.quality.page import write_json, write_page
from ...quant.quality.pictures import pairs_of
from ...quant.quality.quality import OUTPUTS, LayerError, Quality
from ...quant.quality.sums import Sums
from .attribution import attribute
from .budget import beside_prediction
from .detached import check_visible, wrapping
from .parts import note_errors
from .pictures import check_fits, decode, enlarged, figures
from .plan import device_name
from .provenance import note_quality
from .sampling import ADAPTIVE, Bar, Request, Sampled, Subject, first, parts
from .sides import called, check_alike, file_name, formats, lora, settings, shapes, side, versions

ATTRIBUTE = ("auto", "always", "never")
PREFIX = "scaled_fp8/compare"


@dataclass(frozen=True)
class Compared:
    """pictures: a, b and their difference, each IMAGE ``[images, height, width, 3]``; None without a VAE."""

    quality: Quality
    pictures: tuple[Tensor, Tensor, Tensor] | None


@dataclass
class Latents:
    """What both made, summed up. pairs: the latents of each seed; steps: error of what was foreseen in each step."""

    whole: Sums = field(default_factory=Sums)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    steps: list[Sums] = field(default_factory=list)

    def add(self, a: Sampled, b: Sampled) -> None:
        self.pairs.append((a.latent, b.latent))
        add_parts(self.whole, parts(a.latent), parts(b.latent))
        self.steps += [Sums() for _ in range(len(a.predictions) - len(self.steps))]
        for sums, one, other in zip(self.steps, a.predictions, b.predictions, strict=False):
            add_parts(sums, one, other)


def add_parts(sums: Sums, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> None:
    for one, other in zip(a, b, strict=True):
        sums.add(one, other)


@dataclass(frozen=True)
class Comparison:
    """b against a for so many images, each of a seed. wanted: of ATTRIBUTE, whether each layer's own error is told."""

    a: ModelPatcher
    b: ModelPatcher
    request: Request
    images: int
    vae: VAE | None = None
    wanted: str = "auto"

    def run(self) -> Compared:
        """Refused, before anything is sampled where that can be known, for what cannot be compared."""
        samples = self.checked()
        bar = Bar((2 * self.images + (self.wanted == "always")) * self.request.steps)
        sides = (Subject(self.a), Subject(self.b))
        latents = self.latents(sides, samples, bar)
        layers = self.layers(latents.whole, samples, bar)
        pictures, measured, notes = seen(self.vae, latents)
        quality = Quality(
            a=side(sides[0]),
            b=side(sides[1]),
            metrics={"latent_error": latents.whole.relative, **measured, **worst(layers)},
            steps=() if self.request.sampler_name == ADAPTIVE else tuple(sums.relative for sums in latents.steps),
            layers=layers,
            measured=OUTPUTS,
            warnings=(*notes, *self.warnings(latents.whole, layers)),
            settings=settings(self.request, samples, self.images),
            versions=versions(),
            device=device_name(self.a.load_device),
        )
        note_quality(self.b, quality)
        return Compared(quality, pictures)

    def checked(self) -> Any:
        """The latent that both start from."""
        check_alike(self.a, self.b)
        if self.wanted == "always":
            check_visible(self.b)
        samples = self.request.samples(self.a)
        if self.vae is not None:
            check_fits(self.vae, samples)
        return samples

    def latents(self, sides: tuple[Subject, Subject], samples: Any, bar: Bar) -> Latents:
        """Of both in turn, the second first for every second seed: so each is loaded once a seed, and no drift favours
        one."""
        latents = Latents()
        for number in range(self.images):
            order = sides if number % 2 == 0 else sides[::-1]
            found = {side: tried(side, self.request, samples, number, bar) for side in order}
            latents.add(found[sides[0]], found[sides[1]])
        return latents

    def layers(self, sums: Sums, samples: Any, bar: Bar) -> tuple[LayerError, ...]:
        """Each layer's own error, where it is wanted; b carries it from then on."""
        unasked = self.wanted == "auto" and is_noise(sums) and not wrapping(self.b)
        if not unasked and self.wanted != "always":
            return ()
        if unasked:
            bar.more(self.request.steps)
        layers = layer_errors(self.a, self.b, attribute(self.a, self.b, self.request, samples, bar))
        note_errors(self.b, {layer.name: layer.sqnr_db for layer in layers})
        return layers

    def warnings(self, sums: Sums, layers: tuple[LayerError, ...]) -> list[str]:
        """What the figures may not be taken for."""
        lines = beside_prediction(self.b, sums.relative)
        if is_noise(sums) and not any(layer.noise for layer in layers):
            lines.append(f"{file_name(self.b)} makes another picture, by a latent error of {sums.relative:.3g}.")
        if self.wanted == "always" and not layers:
            lines.append("No layer was seen running, as where a model is compiled: nothing is told of them.")
        if lora(self.a) != lora(self.b):
            lines.append("The models have other LoRAs, whose effect is in these figures too.")
        return lines


def tried(side: Subject, request: Request, samples: Any, number: int, bar: Bar) -> Sampled:
    """Refused where a latent of another model's is what made sampling fail."""
    try:
        return side.run(request, samples, number, bar)
    except management.InterruptProcessingException:
        raise
    except Exception as problem:
        sentence = misfit(side.model, samples)
        if sentence is None:
            raise
        raise Refused(f"{sentence} ({first_line(problem)}); use an empty latent for this model.") from problem


def misfit(model: ModelPatcher, samples: Any) -> str | None:
    """How a latent differs from what a model takes, None where it does not."""
    shape, format = first(samples).shape, model.get_model_object("latent_format")
    if shape[1] == format.latent_channels and len(shape) == format.latent_dimensions + 2:
        return None
    takes = f"{format.latent_channels} channels in {format.latent_dimensions} dimensions"
    return f"latent: is {list(shape)} and {called(model)} takes {takes}"


def seen(vae: VAE | None, latents: Latents) -> tuple[tuple[Tensor, Tensor, Tensor] | None, dict[str, float], list[str]]:
    """The pictures, their figures, and how much the difference is enlarged."""
    if vae is None:
        return None, {}, []
    a, b = (torch.cat([decode(vae, pair[i]) for pair in latents.pairs]) for i in (0, 1))
    apart, factor = enlarged(a, b)
    notes = [f"The difference is shown {factor} times enlarged."] if factor > 1 else []
    return (a, b, apart), figures(a, b), notes


##### Files


def write_report(found: Compared) -> list[dict[str, str]]:
    """Write the page and the same figures as JSON below the output folder; where, as the editor names it."""
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(PREFIX, folder_paths.get_output_directory())
    stem = f"{name}_{counter:05}_"
    pairs = pairs_of(*found.pictures[:2]) if found.pictures else ()
    write_page(Path(folder) / f"{stem}.html", found.quality, pairs)
    write_json(Path(folder) / f"{stem}.json", found.quality)
    names = (f"{stem}.html", f"{stem}.json")
    return [{"filename": file, "subfolder": subfolder, "type": "output"} for file in names]


##### Layers


def layer_errors(a: ModelPatcher, b: ModelPatcher, found: dict[str, Sums]) -> tuple[LayerError, ...]:
    """Those that ran, in the model's order."""
    ours, theirs, sizes = formats(a), formats(b), shapes(a)
    short = {name.removeprefix("diffusion_model."): shape for name, shape in sizes.items()}
    return tuple(
        LayerError(
            name=name,
            shape=shape,
            format_a=ours[name],
            format_b=theirs[name],
            sqnr_db=found[name].sqnr,
            relative=found[name].relative,
        )
        for name, shape in short.items()
        if name in found
    )


def worst(layers: tuple[LayerError, ...]) -> dict[str, float]:
    """The figure of the layer with the largest error, where layers were measured."""
    decibels = [layer.sqnr_db for layer in layers]
    return {"worst_layer": nan if any(map(isnan, decibels)) else min(decibels)} if decibels else {}


def is_noise(sums: Sums) -> bool:
    return sqnr.is_noise(sums.sqnr)
