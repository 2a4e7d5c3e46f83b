"""What the panel's routes answer of files that are hostile: links, sidecars and shards that are no checkpoints."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import torch
from inside import BASE, MODELS, answer, pack, write_fp8
from safetensors.torch import load_file, save_file

pack()
NAME = next(name for name in sys.modules if name.endswith(".nodes.panel.inspection") and "scaled" in name)
inspection = sys.modules[NAME]
routes = importlib.import_module(NAME.replace(".inspection", ".routes"))
SECRET = b"SECRET-PASSWORD" * 100
(BASE / "secret.txt").write_bytes(SECRET)


def index(name: str, shard: str, keys: Iterable[str] = ("a.weight",)) -> str:
    content = {"weight_map": dict.fromkeys(keys, shard)}
    (MODELS / f"{name}.safetensors.index.json").write_text(json.dumps(content))
    return f"diffusion_models/{name}.safetensors.index.json"


def asked(file: str) -> str:
    """The whole answer, whatever it is, as the text that a page gets."""
    try:
        return json.dumps(inspection.inspect_file(file))
    except inspection.NotListed as reason:
        return f"NotListed: {reason}"


os.symlink(BASE / "secret.txt", MODELS / "leads-out.safetensors")
(MODELS / "rubbish.safetensors").write_bytes(SECRET)
save_file({"a.weight": torch.ones(4, 4)}, MODELS / "beside.safetensors")
(MODELS / "beside_map.pt").write_bytes(SECRET)
(MODELS / "beside_qmap.json").write_bytes(b'{"quant')
(MODELS / "cared-for_qmap.json").symlink_to(BASE / "secret.txt")
save_file({"a.weight": torch.ones(4, 4)}, MODELS / "cared-for.safetensors")
answers = {
    "link as sidecar": asked("diffusion_models/cared-for.safetensors"),
    "link as shard": asked(index("linked", "leads-out.safetensors")),
    "link": asked("diffusion_models/leads-out.safetensors"),
    "rubbish": asked("diffusion_models/rubbish.safetensors"),
    "rubbish as shard": asked(index("rubbish", "rubbish.safetensors")),
    "shard elsewhere": asked(index("elsewhere", "../../secret.txt")),
    "shard absent": asked(index("absent", "none.safetensors")),
    "sidecar": asked("diffusion_models/beside.safetensors"),
}

# a model that is kept elsewhere, by a link to the file, to its folder, and as a shard by such a link
write_fp8("routes-here.safetensors", marked=True)
elsewhere = BASE / "elsewhere"
elsewhere.mkdir(exist_ok=True)
shutil.copy(MODELS / "routes-here.safetensors", elsewhere / "kept.safetensors")
os.symlink(elsewhere / "kept.safetensors", MODELS / "routes-link.safetensors")
os.symlink(elsewhere, MODELS / "routes-folder", target_is_directory=True)
kept = {
    "itself": asked("diffusion_models/routes-here.safetensors"),
    "link": asked("diffusion_models/routes-link.safetensors"),
    "folder": asked("diffusion_models/routes-folder/kept.safetensors"),
    "shard": asked(index("routes-sharded", "routes-link.safetensors", load_file(elsewhere / "kept.safetensors"))),
    "not listed": asked("diffusion_models/../../elsewhere/kept.safetensors"),
}

# a shard exchanged for one of its size and time, under the same index
write_fp8("routes-shard.safetensors", marked=True)
shard = MODELS / "routes-shard.safetensors"
file = index("exchanged", shard.name, load_file(shard))
first, status = asked(file), shard.stat()
shard.write_bytes(bytes(status.st_size))
os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
exchanged = {"before": first, "after": asked(file)}


async def crowd(count: int) -> dict[str, int]:
    """How many of many inspections look at once, and what those get that wait too long."""
    looking, most, free, lock = 0, 0, threading.Event(), threading.Lock()

    def look() -> dict:
        nonlocal looking, most
        with lock:
            looking += 1
            most = max(most, looking)
        free.wait(30)
        with lock:
            looking -= 1
        return {}

    routes.PATIENCE = 0.2
    answers = await asyncio.gather(*(routes.answer(look) for _ in range(count)))
    free.set()
    return {"most": most, "told": sum(getattr(answer, "status", 0) == 503 for answer in answers)}


answer({
    "answers": answers, "kept": kept, "exchanged": exchanged, "crowd": asyncio.run(crowd(8)), "folder": str(BASE),
    "number": str(int.from_bytes(SECRET[:8], "little")), "home": str(Path.home()),
})  # fmt: skip
