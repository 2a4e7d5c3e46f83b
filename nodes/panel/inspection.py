"""What a model file is and what will run, before it is loaded: for the routes, from the header and a few samples."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import folder_paths
import torch

from ...quant.checkpoint.read import Checkpoint, survey
from ...quant.checkpoint.verdict import REFUSED
from ...quant.errors import Refused
from ...quant.files.open import open_source
from ...quant.files.sets import files_of, stamps_of
from ...quant.kernels.choice import Choice
from ...quant.kernels.mode import FAMILIES
from ...quant.kernels.plan import choose_foreseen, require
from ...quant.recipes.sizes import file_estimates
from ...quant.weights.native import runs_in_core
from ..host.machine import diffusion_place, encoder_place, free_memory
from ..host.plan import IN_CORE, device_name
from ..inputs import MODEL_FOLDERS, model_files

ENCODERS = "text_encoders"
FOLDERS = (*MODEL_FOLDERS, ENCODERS)
LONGEST = 512  # characters of a folder and a name


class NotListed(Refused):
    """A name that ComfyUI lists in none of FOLDERS; its text is one sentence for people."""


def listed_path(file: str) -> str:
    """Path of folder/name as ComfyUI lists it, wherever a link leads; NotListed for every other name."""
    folder, _, name = file.partition("/")
    if len(file) > LONGEST:
        raise NotListed(f"A file name of {len(file)} characters is too long; {LONGEST} are the most.")
    if file not in listed():
        raise NotListed(f"{file}: is not a file that ComfyUI lists; choose one of {', '.join(FOLDERS)}.")
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise NotListed(f"{file}: is a link to a file that is not there; mend the link.")
    return path


def listed() -> list[str]:
    """Every file that a node of this pack offers, as folder/name."""
    return [*model_files(), *(f"{ENCODERS}/{name}" for name in folder_paths.get_filename_list(ENCODERS))]


def inspect_file(file: str, compute: str = "") -> dict[str, Any]:
    """Verdict, size, memory and plan of a listed file, as JSON; a refused or unreadable one is an answer too.

    compute: of FAMILIES, or "" for what the file's loader does by itself.
    """
    compute = compute or ("upcast" if file.startswith(ENCODERS) else "auto")
    if compute not in FAMILIES:
        raise NotListed(f"compute {compute[:40]!r} is unknown; choose one of {', '.join(FAMILIES)}.")
    path = listed_path(file)
    check_parts(file, path)
    purpose = ENCODERS if file.startswith(ENCODERS) else ""
    free = free_memory(place_of(purpose)[0])
    found = inspected(path, stamps_of(Path(path)), compute, purpose)
    return {"file": file, "size": os.stat(path).st_size, "free": free, **found}


def place_of(purpose: str) -> tuple[torch.device, torch.dtype]:
    return encoder_place() if purpose == ENCODERS else diffusion_place()


def check_parts(file: str, path: str) -> None:
    """NotListed where what lies beside is a link out of its folder; what ComfyUI lists may lie anywhere."""
    folder, _, name = file.partition("/")
    roots, known = (os.path.dirname(path), *folder_paths.get_folder_paths(folder)), listed()
    for part in files_of(Path(path)):
        inside = any(folder_paths.is_within_directory(root, str(part)) for root in roots)
        if not inside and f"{folder}/{Path(name).with_name(part.name)}" not in known:
            raise NotListed(f"{file}: {part.name} is a link out of the folder; put the file itself there.")


@lru_cache(maxsize=64)
def inspected(path: str, stamps: tuple, compute: str, purpose: str) -> dict[str, Any]:
    """The part of the answer that costs reading; stamps are there to tell a changed file."""
    try:
        # a page needs the names of files, not where the server keeps them
        checkpoint = survey(open_source(path, Path(path).name), "sample")
    except Refused as reason:
        return {
            "accepted": False, "sentence": reason.by_name, "dialect": "", "layers": [], "totals": {}, "notes": [],
        }  # fmt: skip
    verdict = checkpoint.verdict.to_json()
    notes = verdict.pop("reasons")
    return {
        **verdict, "sentence": checkpoint.verdict.sentence(), "notes": notes,
        "formats": counted(layer["format"] for layer in verdict["layers"]),
        "granularities": counted(layer["granularity"] for layer in verdict["layers"]),
        "needs": needs(checkpoint), **planned(checkpoint, compute, purpose),
    }  # fmt: skip


def planned(checkpoint: Checkpoint, compute: str, purpose: str) -> dict[str, Any]:
    """What will run on this machine's device, or the sentence why compute cannot be had; layers with their kernels."""
    device, dtype = place_of(purpose)
    names = [layer.name for layer in checkpoint.verdict.layers if layer.decision != REFUSED]
    core = {name: core_kernel(checkpoint, name) for name in names if in_core(checkpoint, name)}
    place = {"device": device_name(device), "memory": memory(checkpoint, dtype)}
    try:
        choices = {name: layer_choice(checkpoint, name, device, dtype, compute) for name in names if name not in core}
        require(choices.values(), compute)
    except Refused as reason:
        return {**place, "plan": {}, "reasons": {}, "problem": str(reason)}
    kernels = {name: as_json(choice) for name, choice in choices.items()} | core
    slow = [choice.reason for choice in choices.values() if not choice.kernel.on_codes]
    return {
        **place, "plan": counted(found["kernel"] for found in kernels.values()), "reasons": counted(slow),
        "choices": kernels,
    }  # fmt: skip


def layer_choice(checkpoint: Checkpoint, name: str, device: torch.device, dtype: torch.dtype, compute: str) -> Choice:
    layer = checkpoint.spec(name)
    return choose_foreseen(layer.format, layer.granularity, layer.shape, device, dtype, compute, layer.transformed)


def in_core(checkpoint: Checkpoint, name: str) -> bool:
    """Whether ComfyUI's own kernels run the layer, by the rule that loading goes by."""
    layer = checkpoint.spec(name)
    foreign = layer.module.key("up") is not None or (layer.rotation > 0 and not layer.format.rotates)
    return not foreign and runs_in_core(layer.format, layer.granularity, layer.module.key("smooth") is not None)


def as_json(choice: Choice) -> dict[str, Any]:
    return {"kernel": choice.kernel.name, "reason": choice.reason, "slow": not choice.kernel.on_codes}


def core_kernel(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    return {"kernel": f"ComfyUI core {checkpoint.spec(name).format.name}", "reason": IN_CORE, "slow": False}


def memory(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """Bytes the weights take when all are loaded, and the largest of them dequantized in passing."""
    largest = max((layer.shape[0] * layer.shape[1] for layer in checkpoint.layers.values()), default=0)
    return checkpoint.source.total_bytes + largest * dtype.itemsize


def needs(checkpoint: Checkpoint) -> dict[str, list[dict[str, Any]]]:
    """Component -> bytes at most in memory by each method that Quantize has for it."""
    return {
        component: [{"method": row.method, "peak": row.peak} for row in rows]
        for component, rows in file_estimates(checkpoint.shapes()).items()
    }


def counted(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(name for name in names if name).most_common())
