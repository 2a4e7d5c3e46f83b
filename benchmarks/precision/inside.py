"""What ComfyUI's own python does for the table of precision: ``python -m benchmarks.precision.inside REQUEST ANSWER``.

Images of the digits' models by core's KSampler: watched, or with each of several files beside the original's.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.inside import loader, main, start

CALIBRATION = "precision"
Request = dict[str, Any]


def sampler(request: Request, nodes: dict[str, Any]) -> Callable[[Any], Tensor]:
    """MODEL -> latents ``[images, *latent]`` of the request's digits, steps and seed."""
    table, digits = load_file(request["conditioning"]), request["digits"]
    conditioning = [[torch.cat([table[digit] for digit in digits]), {}]]
    latent = {"samples": torch.zeros(len(digits), *request["latent"])}
    asked = (request["seed"], request["steps"], 1.0, "euler", "simple", conditioning, conditioning, latent, 1.0)
    return lambda model: nodes["KSampler"]().sample(model, *asked)[0]["samples"].float()


def watch(request: Request) -> Request:
    """Write the calibration of a sampling, by the nodes that users have; its layers."""
    nodes = start(request)
    model, draw = loader(nodes, "UNETLoader", request["file"])(), sampler(request, nodes)
    (watching,) = called(nodes, "CalibrateModel", model=model, name=CALIBRATION)
    draw(watching)
    found, _ = called(nodes, "SaveCalibration", model=watching)
    shutil.move(found.source.path, request["out"])
    return {"layers": len(found)}


def errors(request: Request) -> Request:
    """File -> relative error of its latents; answered one by one, so that a run that is cut short goes on there."""
    nodes, answer = start(request), Path(sys.argv[2])
    draw = sampler(request, nodes)
    kept = Path(request["latents"])
    if not kept.exists():
        save_file({"latents": draw(loader(nodes, "UNETLoader", request["file"])())}, kept)
    want, found = load_file(kept)["latents"], {}
    for file in request["files"]:
        found[file] = float((draw(loader(nodes, "UNETLoader", file)()) - want).norm() / want.norm())
        answer.write_text(json.dumps(found))
    return found


def save(request: Request) -> Request:
    """File -> its bytes, and how far the graph's latents, which are written down beside, are from the original's."""
    nodes, folder = start(request), Path(request["folder"])
    base, draw, written = loader(nodes, "UNETLoader", request["file"])(), sampler(request, nodes), {}
    want = draw(base)
    for name, asked in request["ways"].items():
        known = called(nodes, "LoadCalibration", name=request["calibration"])[0]
        model = called(nodes, "QuantizeModel", model=base, granularity="default", keep="", calibration=known, **asked)[
            0
        ]
        called(nodes, "SaveQuantizedModel", model=model, filename_prefix=name)
        (path,) = (Path(request["base"]) / "output").glob(f"{name}_*.safetensors")
        path = path.rename(Path(request["base"]) / "models" / "diffusion_models" / f"{name}.safetensors")
        latents = draw(model)
        save_file({"latents": latents}, folder / path.name)
        written[path.name] = {"bytes": path.stat().st_size, "error": float((latents - want).norm() / want.norm())}
    return written


def called(nodes: dict[str, Any], node: str, **inputs: Any) -> Any:
    """The outputs of a node of this pack."""
    return nodes[node].PREPARE_CLASS_CLONE(None).execute(**inputs).result


def load(request: Request) -> Request:
    """File -> how far its latents are from those in the graph, by ComfyUI core alone."""
    nodes, folder = start(request), Path(request["folder"])
    assert "QuantizeModel" not in nodes
    draw, found = sampler(request, nodes), {}
    for name in request["files"]:
        want = load_file(folder / name)["latents"]
        found[name] = float((draw(loader(nodes, "UNETLoader", name)()) - want).norm() / want.norm())
    return found


WORK = {"watch": watch, "errors": errors, "save": save, "load": load}


if __name__ == "__main__":
    main(WORK)
