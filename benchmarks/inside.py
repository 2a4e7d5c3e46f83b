"""What ComfyUI's own python measures: ``python -m benchmarks.inside REQUEST ANSWER``, JSON files."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def start(request: dict) -> dict[str, Any]:
    """ComfyUI's nodes and this pack's, by ComfyUI's own loader; without the pack's where the request says so."""
    import comfy.cli_args as cli

    cli.args.base_directory, cli.args.cpu = request["base"], request["device"] == "cpu"
    if request.get("fast"):
        cli.args.fast = {cli.PerformanceFeature(request["fast"])}
    dynamic_vram(request["device"])
    import torch

    import nodes

    torch.set_num_threads(request.get("threads", 2))
    pack = str(Path(request["base"]) / "custom_nodes" / "scaled-fp8")
    if request.get("pack", True):
        with warned() as lines:
            loaded = asyncio.run(nodes.load_custom_node(pack))
        if not loaded:
            raise RuntimeError(f"the pack cannot be imported: {lines[-1] if lines else 'nobody says why'}")
    return nodes.NODE_CLASS_MAPPINGS


@contextmanager
def warned() -> Iterator[list[str]]:
    """What is warned of meanwhile, a line each."""
    lines = list[str]()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage().strip().splitlines()[0])  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(handler)


def dynamic_vram(device: str) -> bool:
    """As ComfyUI's main.py has it on NVIDIA cards: weights are streamed to the GPU as they are used."""
    if device == "cpu":
        return False
    import comfy.cli_args as cli
    import comfy_aimdo.control as control

    pressure = not getattr(cli.args, "disable_nvml_pressure", False)
    try:
        control.init(simple_vram_headroom=None, nvml_pressure=pressure)
    except TypeError:  # an older one, which does not ask NVML
        control.init(simple_vram_headroom=None)
    import comfy.memory_management
    import comfy.model_management as management
    import comfy.model_patcher as patcher

    headroom = int(getattr(cli.args, "vram_headroom", 0) * 1024**3)
    if not control.init_devices((place.index, headroom) for place in management.get_all_torch_devices()):
        return False
    patcher.CoreModelPatcher = patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True
    return True


def loader(nodes: dict[str, Any], name: str, file: str, dtype: str = "default") -> Callable[[], Any]:
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
    return times


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


##### A sampling step


def step(request: dict) -> dict:
    """Seconds of sampling steps of a FLUX.2 model in ComfyUI, the latents of one step, and the peak memory."""
    nodes = start(request)
    import torch
    from safetensors.torch import save_file

    free = torch.cuda.mem_get_info()[0] if request["device"] != "cpu" else 0
    call = loader(nodes, request["loader"], request["file"], request.get("dtype", "default"))
    model, sampler = call(), nodes["KSampler"]()
    torch.manual_seed(0)
    conditioning = [[torch.randn(1, request["text"], request["context"]), {}]]
    latent = {"samples": torch.zeros(1, 128, request["side"], request["side"])}

    def sampled(steps: int) -> torch.Tensor:
        made = sampler.sample(model, 7, steps, 1.0, "euler", "simple", conditioning, conditioning, latent, 1.0)
        return made[0]["samples"].float().cpu()

    save_file({"latents": sampled(1)}, request["out"])
    steps, taken = request["steps"], []
    for _ in range(request["rounds"]):
        # the sampler's own start is in both
        short = seconds(lambda: sampled(1))
        taken.append((seconds(lambda: sampled(1 + steps)) - short) / steps)
    return {"times": taken, "memory": held(free), "ran": kernels(model), "dynamic": model.is_dynamic()}


def held(free: int) -> int:
    """Bytes: what the GPU has less than was free, since allocators keep their peak; without one, the process's peak."""
    import torch

    if not free:
        # getrusage's peak is inherited from the process that started this one
        told = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/self/status").read_text()))
        return int(told["VmHWM"]) * 1024
    return free - torch.cuda.mem_get_info()[0]


def kernels(model: Any) -> str:
    """Which kernels ran the scaled weights of a MODEL and why, by the pack's own report; "" where there are none."""
    choices = [getattr(getattr(p, "_params", None), "choice", None) for p in model.model.parameters()]
    told = {f"{choice.kernel.name}: {choice.reason}" for choice in choices if choice is not None}
    return "; ".join(sorted(told))


WORK = {"load": load, "step": step}


def main(work: Mapping[str, Callable[[dict], dict]]) -> None:
    """Answer the request of the first file in the second; request["work"] says by which function."""
    request = json.loads(Path(sys.argv[1]).read_text())
    import torch

    with torch.inference_mode():
        answer = work[request["work"]](request)
    Path(sys.argv[2]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(WORK)
