"""How much of each layer's error reaches the image: one run with the layer disturbed, for each layer or block.

One quantizer at a time, the others off (Pandey et al., arXiv 2302.05397), in one format: others' errors follow from it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path

import comfy.model_management
import comfy.utils
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...quant.calibration.disturbance import distance
from ...quant.calibration.store import Calibration, Factored, read_calibration, write_calibration
from ...quant.calibration.watching import LIMIT, Watch
from ...quant.errors import Refused
from ...quant.files.atomic import write_whole
from ...quant.records import UNFIT
from .calibrations import path_of, plain, records
from .disturbance import difference_of, disturbed, disturbing, local_error
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
    done, groups = Progress(path.with_suffix(".json")), disturbed(model, trial.groups)
    left = [group for group in groups if not all(layer in done.factors for layer in group)]
    tell(f"{len(left) + 1} samplings of {trial.request.steps} steps; how long that takes is known after the first")
    watch, start = watch_for(model, LIMIT), time.monotonic()
    want = checked(trial.run(with_watch(model, watch)))
    took = Took(len(groups), len(left), time.monotonic() - start)
    logging.info("Scaled FP8: sensitivity of %d layers: %s.", len(watch.moments), took)
    for group in watched_runs(left, took, tell):
        seen = [name for name in group if name in watch.moments]
        done.add(factors(model, seen, watch, lambda clone: distance(trial.run(clone), want)))
    write(path, model, watch, done.factors, before)
    done.path.unlink(missing_ok=True)
    return read_calibration(path), f"{took}\n{path.name}: {len(watch.moments)} layers, {watch.blocks}"


def check(model: ModelPatcher, before: Calibration | None) -> None:
    """Refused, before anything runs, where the model cannot be watched or what is known is of another one."""
    check_not_compiled(model.model_options)
    if before is None:
        return
    before.check(name for name, _ in weights(model))
    for name, weight in weights(model):
        before.of(name, plain(weight))


def write(
    path: Path, model: ModelPatcher, watch: Watch, factors: Mapping[str, float], before: Calibration | None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if before is None:
        write_calibration(path, records(model, watch, factors), watch.facts)
    else:
        write_calibration(path, Factored(before, factors), before.facts)


def watched_runs(left: list[list[str]], took: Took, tell: Tell) -> Iterator[list[str]]:
    """The groups, with a progress bar, what remains in words and a way to stop before each."""
    bar = comfy.utils.ProgressBar(took.runs)
    bar.update(took.runs - len(left))
    for index, group in enumerate(left):
        comfy.model_management.throw_exception_if_processing_interrupted()
        tell(f"{index} of {len(left)} runs done, {took.rest(len(left) - index)} left" if index else str(took))
        yield group
        bar.update(1)


def checked(latents: Tensor) -> Tensor:
    """Refused where there is nothing to compare with."""
    if not latents.isfinite().all() or not latents.any():
        raise Refused("Undisturbed, this model samples NaN, infinity or nothing but zeros; find out first why.")
    return latents


def factors(
    model: ModelPatcher, group: list[str], watch: Watch, measure: Callable[[ModelPatcher], float]
) -> dict[str, float]:
    """Each layer's error in the image for each unit of error of its output, from one run with all of them disturbed."""
    differences, local = {}, 0.0
    for name in group:
        difference = difference_of(model, name)
        local += local_error(model, watch, name, difference) ** 2
        differences[name] = difference.to(activation_dtype(model))
    found = measure(disturbing(unwatched(model), differences)) if group else 0.0
    if not isfinite(found):
        raise Refused(
            f"With {', '.join(group)} disturbed this model samples NaN or infinity; keep it in high precision."
        )
    return dict.fromkeys(group, found / max(sqrt(local), 1e-12))


class Progress:
    """The factors that are measured already, in a file beside the calibration until that is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.factors: dict[str, float] = {}
        try:
            # a pipe would wait for ever
            found = json.loads(path.read_text(encoding="utf-8") if path.is_file() else "{}")
            self.factors = {name: float(factor) for name, factor in found.items() if isfinite(factor)}
        except (OSError, RecursionError, *UNFIT):
            # none yet, or damaged: measured anew
            pass

    def add(self, found: Mapping[str, float]) -> None:
        self.factors |= found
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(self.factors).encode())
