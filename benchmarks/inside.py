"""What ComfyUI's own python measures: ``python -m benchmarks.inside REQUEST ANSWER``, JSON files."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import comfy.cli_args as cli


def start(request: dict) -> dict[str, type]:
    """ComfyUI's nodes and this pack's, by ComfyUI's own loader."""
    cli.args.base_directory, cli.args.cpu = request["base"], request["device"] == "cpu"
    if request.get("fast"):
        cli.args.fast = {cli.PerformanceFeature(request["fast"])}
    import torch

    import nodes

    torch.set_num_threads(request.get("threads", 2))
    pack = str(Path(request["base"]) / "custom_nodes" / "scaled-fp8")
    assert asyncio.run(nodes.load_custom_node(pack)), "the pack cannot be imported"
    return nodes.NODE_CLASS_MAPPINGS


def loader(nodes: dict[str, type], name: str, file: str, dtype: str = "default") -> Callable[[], object]:
    """A call that loads file by the node of that name and returns MODEL."""
    node = nodes[name]
    if name == "UNETLoader":
        return lambda: node().load_unet(file, dtype)[0]
    asked = {"checkpoint": f"diffusion_models/{file}", "compute": "auto", "activation_scale": "dynamic"}
    return lambda: node.PREPARE_CLASS_CLONE(None).execute(**asked).result[0]


##### Load time


def load(request: dict) -> dict:
    """Seconds of each loader on one file, by turns: with the file out of the page cache and in it."""
    nodes, file = start(request), request["file"]
    path = Path(request["base"]) / "models" / "diffusion_models" / file
    loaders = {name: loader(nodes, name, file) for name in ("UNETLoader", "LoadFP8Checkpoint")}
    times: dict[str, list[float]] = {f"{name} {state}": [] for name in loaders for state in ("cold", "warm")}
    for call in loaders.values():
        call()
    for _ in range(request["rounds"]):
        for state in ("cold", "warm"):
            for name, call in loaders.items():
                gc.collect()
                (forget if state == "cold" else remember)(path)
                times[f"{name} {state}"].append(seconds(call))
    return {name: {"median": median(taken), "min": min(taken), "max": max(taken)} for name, taken in times.items()}


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def forget(path: Path) -> None:
    """Out of the page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def remember(path: Path) -> None:
    """Into the page cache."""
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


WORK = {"load": load}


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    import torch

    with torch.inference_mode():
        answer = WORK[request["work"]](request)
    Path(sys.argv[2]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
