"""How much of each layer's error reaches the image: one run with the layer disturbed, for each layer or block.

One quantizer at a time, the others off (Pandey et al., arXiv 2302.05397), in one format: others' errors follow from it.
With a calibration a layer is disturbed by the very rounding that plans make with it; without, by rounding to nearest,
as images that rounding was fitted to would show too little of it. Then a run for each format, with many layers in it at
once: what is seen of an error in it beside others.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from pathlib import Path

import comfy.model_management
import comfy.utils
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...quant.calibration.candidates import USUAL
from ...quant.calibration.disturbance import DISTURBED_BY, Rounded, fed, image_error, level, nearest, spread
from ...quant.calibration.store import Calibration, Factored, read_calibration, write_calibration
from ...quant.errors import Refused
from ...quant.files.atomic import write_whole
from ...quant.records import UNFIT
from ...quant.weights.formats import FORMATS, Format
from .calibrations import path_of, plain, records
from .disturbance import disturbed, disturbing, weight_of
from .plan import activation_dtype
from .trial import Trial
from .watch import check_not_compiled, unwatched, watch_for, weights, with_watch

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Took:
    """What a measurement takes. seconds: of one run."""

    runs: int
    left: int
    seconds: float

    def __str__(self) -> str:
        before = f", {self.runs - self.left} of them measured before" if self.left < self.runs else ""
        return f"{self.runs} runs{before}; one takes {self.seconds:.1f} s, so that {self.rest(self.left)} remain"

    def rest(self, left: int) -> str:
        """How long so many runs take."""
        seconds = left * self.seconds
        return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


Work = list[str] | str  # layers that are disturbed alone, or a format that many are in


def measure_sensitivity(
    model: ModelPatcher, trial: Trial, before: Calibration | None, tell: Tell
) -> tuple[Calibration, str]:
    """Factors and moments of a model as a file, or the factors added to what was known before; and lines for people.

    Goes on where it was interrupted, and measures nothing twice. tell: what it will take, before the runs begin, and
    how far it is.
    """
    check(model, before)
    path = path_of(f"{Path(before.source.name).stem + ' ' if before else ''}sensitivity-{trial.key(model)}")
    if before is None and path.exists():
        return read_calibration(path), f"{path.name}: measured before; remove the file to measure anew."
    whole = Measurement(model, trial, before, path)
    left = [work for work in whole.works if not whole.done(work)]
    tell(f"{len(left) + 1} samplings of {trial.request.steps} steps; how long that takes is known after the first")
    start = time.monotonic()
    want = whole.undisturbed()
    took = Took(len(whole.works), len(left), time.monotonic() - start)
    logging.info("Scaled FP8: sensitivity of %d layers: %s.", len(whole.layers), took)
    for work in watched_runs(left, took, tell):
        whole.run(work, want)
    found = whole.saved()
    return found, f"{took}\n{path.name}: {len(found)} layers{whole.more()}"


class Measurement:
    """What is measured, in which order, and what is known of it already.

    works: all of it; watch: of the first run, None where a calibration is added to.
    """

    def __init__(self, model: ModelPatcher, trial: Trial, before: Calibration | None, path: Path) -> None:
        self.model, self.trial, self.before, self.path = model, trial, before, path
        self.factors, self.levels = (Progress(path.with_suffix(end)) for end in (".json", ".levels.json"))
        groups = disturbed(model, trial.groups)
        self.layers = [name for group in groups for name in group]
        self.works: list[Work] = [*groups, *(USUAL if before else ())]
        self.watch = None if before else watch_for(model)

    def done(self, work: Work) -> bool:
        return work in self.levels.found if isinstance(work, str) else all(name in self.factors.found for name in work)

    def undisturbed(self) -> Tensor:
        return checked(self.trial.run(with_watch(self.model, self.watch) if self.watch else unwatched(self.model)))

    def run(self, work: Work, want: Tensor) -> None:
        """One run, of which the result is kept; want: undisturbed."""
        if isinstance(work, str):
            self.levels.add({work: self.level(work, want)})
        else:
            self.factors.add(self.shared(work, want))

    def shared(self, group: list[str], want: Tensor) -> dict[str, float]:
        """Each layer's error in the image for each unit of error of its output, with all of them disturbed."""
        rounded = {name: self.rounded(name, DISTURBED_BY) for name in group if self.knows(name)}
        found = self.lost(rounded, want)
        together = sqrt(sum(error**2 for _, error in rounded.values()))
        return dict.fromkeys(rounded, found / max(together, 1e-12))

    def level(self, format: str, want: Tensor) -> float:
        """What is seen of an error in a format, of as many layers as fit into memory, beside what is told of each."""
        sizes = {name: size for name, size in self.sizes().items() if self.factors.found.get(name)}
        rounded = {name: self.rounded(name, FORMATS[format]) for name in (spread(sizes) if sizes else ())}
        return level(
            self.lost(rounded, want), (self.factors.found[name] * error for name, (_, error) in rounded.items())
        )

    def sizes(self) -> dict[str, int]:
        """Bytes of each layer's difference."""
        held, width = dict(weights(self.model)), activation_dtype(self.model).itemsize
        return {name: held[name].numel() * width for name in self.layers}

    def knows(self, name: str) -> bool:
        return name in (self.watch.moments if self.watch else self.before or {})

    def rounded(self, name: str, format: Format) -> Rounded:
        """What is added to a layer's weight ``[out, in]``, and the relative error of its output."""
        weight, dtype = weight_of(self.model, name), activation_dtype(self.model)
        if self.before is not None:
            difference, error = fed(weight, self.before[name].moments, name, format)
            return difference.to(dtype), error
        assert self.watch is not None
        difference = nearest(weight, name)
        return difference.to(dtype), self.watch.moments[name].lost_on_seen(difference, weight)

    def lost(self, rounded: Mapping[str, Rounded], want: Tensor) -> float:
        """Relative error of the image with these layers disturbed."""
        if not rounded:
            return 0.0
        differences = {name: difference for name, (difference, _) in rounded.items()}
        found = image_error(self.trial.run(disturbing(unwatched(self.model), differences)), want)
        if not isfinite(found):
            raise Refused(
                f"With {', '.join(rounded)} disturbed this model samples NaN or infinity; keep it in high precision."
            )
        return found

    def saved(self) -> Calibration:
        """As a file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.watch is not None:
            write_calibration(self.path, records(self.model, self.watch, self.factors.found), self.watch.facts)
        elif self.before is not None:
            facts = replace(self.before.facts, levels=self.levels.found)
            write_calibration(self.path, Factored(self.before, self.factors.found), facts)
        for progress in (self.factors, self.levels):
            progress.path.unlink(missing_ok=True)
        return read_calibration(self.path)

    def more(self) -> str:
        """Of the report: how moments are kept, or what the formats' levels are."""
        if self.watch is not None:
            return f", {self.watch.blocks}"
        told = (f"{format} {value:.2f}" for format, value in self.levels.found.items())
        return f"; errors of many layers at once, over those told of each: {', '.join(told)}"


def check(model: ModelPatcher, before: Calibration | None) -> None:
    """Refused, before anything runs, where the model cannot be watched or what is known is of another one."""
    check_not_compiled(model.model_options)
    if before is None:
        return
    before.check(name for name, _ in weights(model))
    for name, weight in weights(model):
        before.of(name, plain(weight))


def watched_runs(left: list[Work], took: Took, tell: Tell) -> Iterator[Work]:
    """The runs, with a progress bar, what remains in words and a way to stop before each."""
    bar, start = comfy.utils.ProgressBar(took.runs), time.monotonic()
    bar.update(took.runs - len(left))
    for index, work in enumerate(left):
        comfy.model_management.throw_exception_if_processing_interrupted()
        # rounding takes its time too
        each = replace(took, seconds=(time.monotonic() - start) / index) if index else took
        tell(f"{index} of {len(left)} runs done, {each.rest(len(left) - index)} left" if index else str(took))
        yield work
        bar.update(1)


def checked(latents: Tensor) -> Tensor:
    """Refused where there is nothing to compare with."""
    if not latents.isfinite().all() or not latents.any():
        raise Refused("Undisturbed, this model samples NaN, infinity or nothing but zeros; find out first why.")
    return latents


class Progress:
    """What is measured already, in a file beside the calibration until that is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, float] = {}
        try:
            # a pipe would wait for ever
            found = json.loads(path.read_text(encoding="utf-8") if path.is_file() else "{}")
            self.found = {name: float(value) for name, value in found.items() if isfinite(value)}
        except (OSError, RecursionError, *UNFIT):
            # none yet, or damaged: measured anew
            pass

    def add(self, found: Mapping[str, float]) -> None:
        self.found |= found
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(self.found).encode())
