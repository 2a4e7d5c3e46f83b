"""Calibrations as files below ComfyUI's models: their names, and what a watching model adds to one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from ...quant.calibration.store import Calibration, Record, read_calibration, sample_of, save_calibration
from ...quant.calibration.watching import Watch
from ...quant.errors import Refused
from ...quant.names import without_prefixes
from .watch import KEY, Watched, weights

FOLDER = "scaled_fp8"  # below ComfyUI's models
NAME = re.compile(r"\w[\w .+-]{0,99}")


def path_of(name: str) -> Path:
    """Where a calibration of that name is; Refused for what is no name of a file."""
    if not NAME.fullmatch(name):
        raise Refused(f"name {name!r} is not the name of a file; use letters, digits, spaces and - _ + . only.")
    return folder() / f"{name.removesuffix('.safetensors')}.safetensors"


def folder() -> Path:
    return Path(folder_paths.models_dir) / FOLDER


def calibrations() -> list[str]:
    """Those that are there, by name."""
    return sorted(path.stem for path in folder().glob("*.safetensors"))


def saved(name: str) -> Calibration:
    """The calibration of that name; Refused where there is none, or it is damaged."""
    path = path_of(name)
    if not path.exists():
        raise Refused(f"name {name!r}: models/{FOLDER} holds no calibration of that name; save one, or choose another.")
    return read_calibration(path)


def promises(known: Calibration, names: Iterable[str]) -> tuple[str, ...]:
    """That errors by these moments may promise too much: rounding was fitted to the very images that tell its error.

    Most of all with few tokens: what they do not show is rounded as if it never came.
    """
    seen = [without_prefixes(name) for name in names if name in known]
    seen = [name for name in seen if f"{name}.held_out" not in known.source]
    if not seen:
        return ()
    thin = [name for name in seen if int(known.part(name, "rows")) < int(known.part(name, "shape")[1])]
    if not thin:
        return (
            "The calibration held out no image: the predicted error may be too low, by a third or so; calibrate with "
            "a batch of four images or more.",
        )
    return (
        f"{len(thin)} of {len(seen)} layers, {thin[0]} first, saw fewer tokens than they have inputs: the predicted "
        "error may be too low; calibrate with more or larger images, in a batch of four or more.",
    )


def matter(known: Calibration) -> str:
    """Of how many layers it is known how much they matter, for reports."""
    factors = sum(name.endswith(".factor") for name in known.source)
    return f"sensitivity of {factors} layers" if factors else "sensitivity not measured"


def stamp(name: str) -> tuple[int, int] | None:
    """What changes when the file of that name does, so that a node runs again."""
    path = path_of(name)
    found = path.stat() if path.exists() else None
    return (found.st_mtime_ns, found.st_size) if found else None


def newest(calibration: Calibration) -> Calibration:
    """A calibration as its file is now: later runs may have been added since it was given out."""
    path = calibration.source.path
    if path is None or not path.exists():
        raise Refused(f"{calibration.source.name}: this calibration is gone from models/{FOLDER}; save it again.")
    return read_calibration(path)


def save_watched(model: ModelPatcher) -> tuple[Calibration, Watch]:
    """Add what was seen since the last time to the file; Refused where nothing watches or nothing was seen."""
    watched: Watched | None = model.get_attachment(KEY)
    if watched is None:
        raise Refused("This model does not watch: put Calibrate Model before the sampler, and connect its MODEL here.")
    if not watched.watch.moments:
        raise Refused("Nothing was seen yet: connect the sampler's LATENT to after, so that this node runs behind it.")
    check_finite(watched.watch)
    seen = records(model, watched.watch, watched.watch.factors)
    found = save_calibration(path_of(watched.name), seen, watched.watch.facts)
    watched.watch.clear()
    return found, watched.watch


def check_finite(watch: Watch) -> None:
    """Refused, and all forgotten, where a layer was fed NaN: added to what is known it would spoil that for good."""
    seen = watch.moments.items()
    broken = [name for name, one in seen if not (one.squares.isfinite().all() and one.amax.isfinite())]
    if broken:
        watch.clear()
        raise Refused(
            f"{len(broken)} layers, {broken[0]} first, were fed NaN or infinity, so that nothing was saved; find out "
            "first why the images are broken."
        )


def records(model: ModelPatcher, watch: Watch, factors: Mapping[str, float] | None = None) -> dict[str, Record]:
    """What was seen of each layer that ran."""
    return {
        without_prefixes(name): record(weight, watch, name, (factors or {}).get(name))
        for name, weight in weights(model)
        if name in watch.moments
    }


def record(weight: Tensor, watch: Watch, name: str, factor: float | None) -> Record:
    return Record((weight.shape[0], weight.shape[1]), sample_of(plain(weight)), watch.moments[name], factor)


def plain(weight: Tensor) -> Tensor:
    """A weight in float32, whatever it is quantized to."""
    return weight.dequantize().float() if isinstance(weight, QuantizedTensor) else weight.data.float()
