"""Small builds of ComfyUI's own text encoders in every dialect, beside core on what each file means."""

from __future__ import annotations

import importlib
import os
import sys

import comfy.sd
import torch
from inside import BASE, REQUEST, answer, call, error, pack, save_file
from narrow import TOWERS, built, by_core, parts_of, told
from produced import LOG, StateDict, tensors_in, worst, written
from small_encoders import ENCODERS, TOO_LARGE, SmallEncoder

FOLDER = BASE / "models" / "text_encoders"
TEXT = "a red fox, 7"


##### What is compared


def tensors_of(clip) -> StateDict:
    found = {k: v for i, part in enumerate(parts_of(clip)) for k, v in tensors_in(part, f"{i}.").items()}
    return {k: v for k, v in found.items() if not any(tower in k for tower in TOWERS)}


def conditioning(clip) -> torch.Tensor:
    return call("CLIPTextEncode", clip=clip, text=TEXT)[0][0][0].float()


def loaded(small: SmallEncoder, dialect: str, parts: list[tuple[StateDict, set[str]]]) -> dict:
    # beside those of another process
    files = [f"small-{os.getpid()}-{i}.safetensors" for i in range(len(parts))]
    produced = [written(dialect, *part) for part in parts]
    for file, (stored, header, _) in zip(files, produced, strict=True):
        save_file({k: v.contiguous() for k, v in stored.items()}, FOLDER / file, header or None)
    reference = by_core(small, [meant for _, _, meant in produced])
    LOG.lines.clear()
    try:
        given = dict(zip(("text_encoder", "text_encoder_2"), files, strict=False))
        clip, report = call("LoadFP8TextEncoder", type=small.type, **given)
        off, where = worst(tensors_of(clip), tensors_of(reference))
        found = {"weights": off, "where": where, "report": report}
        found["log"] = [line for line in LOG.lines if not any(tower in line for tower in TOWERS)][:3]
        if small.text:
            want = conditioning(reference)
            found["error"] = error(conditioning(clip), want)
        if dialect == "marker":
            core = by_core(small, [dict(stored) for stored, _, _ in produced])
            found["told"] = any(unscaled({name: tuple(t.shape) for name, t in file.items()}) for file, _ in parts)
            found["core"] = worst(tensors_of(core), tensors_of(reference))[0]
            if small.text:
                found["core_error"] = error(conditioning(core), want)
        return found
    except Exception as problem:
        return {"refused": f"{type(problem).__name__}: {problem}"[:300]}


def figures(name: str) -> dict:
    small = ENCODERS[name]
    with told(small):
        parts = built(small)
        return {dialect: case(small, dialect, parts) for dialect in REQUEST["dialects"]}


def case(small: SmallEncoder, dialect: str, parts: list[tuple[StateDict, set[str]]]) -> dict:
    try:
        return loaded(small, dialect, parts)
    except Exception as problem:
        return {"refused": f"HARNESS {type(problem).__name__}: {problem}"[:300]}


# small matrices: a second thread costs more than it does
torch.set_num_threads(1)
pack()
engine = next(name for name in sys.modules if name.endswith("scaled-fp8.quant"))
unscaled = importlib.import_module(f"{engine}.recipes.unscaled").unscaled
built_here = {kind for small in ENCODERS.values() for kind in small.kinds}
answer({
    "figures": {name: figures(name) for name in REQUEST["names"]},
    "new": sorted({kind.name for kind in comfy.sd.TEModel} - built_here - TOO_LARGE.keys()),
})  # fmt: skip
