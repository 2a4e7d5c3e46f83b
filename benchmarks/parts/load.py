"""Loading inside ComfyUI, by core's node and by this pack's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from .. import comfyui
from ..comfyui import CORE, OURS
from ..models import GIBIBYTE, write_fp8
from ..results import Measurement, Part, row, spread


def load(device: str, rounds: int = 9) -> Iterator[Part]:
    """UNETLoader and LoadFP8Checkpoint on the same native file of 1 GiB."""
    title = "Loading a native FP8 file of 1 GiB, FLUX.2-shaped"
    if reason := comfyui.absent():
        yield comfyui.skipped("load", title, reason)
        return
    with tempfile.TemporaryDirectory() as folder:
        base = comfyui.make_base(Path(folder) / "base")
        path = write_fp8(base / "models/diffusion_models/native.safetensors", GIBIBYTE, device)
        times = comfyui.inside(base, "load", file=path.name, rounds=rounds, device=device)
    rows = tuple(loaded(name, taken) for name, taken in times.items())
    notes = (
        "warm: the file is in the page cache; cold: it was dropped from there, though a disk has caches of its own",
    )
    yield Part("load", title, "python -m benchmarks --only load", f"{CORE}'s UNETLoader", rows, notes=notes)


def loaded(name: str, taken: list[float]) -> Measurement:
    node, state = name.split()
    peer = f"{CORE}'s UNETLoader" if node == "UNETLoader" else "Scaled FP8's LoadFP8Checkpoint"
    note = "opens the file's header and looks at samples of every layer before it loads" if OURS in peer else ""
    return row(state, peer, spread(taken), note=note)
