"""Files of SaveQuantizedModel loaded by core's own loaders, in a ComfyUI that never heard of this pack."""

from __future__ import annotations

import sys
from pathlib import Path

from inside import REQUEST, answer, call, error, load_file, sample, unet


def by_checkpoint_loader(name: str):
    return call("CheckpointLoaderSimple", ckpt_name=name)[0]


def latents(name: str):
    return load_file(Path(REQUEST["latents"]) / name)["latents"]


errors = {name: error(sample(unet(name)), latents(name)) for name in REQUEST["files"]}
answer({"errors": errors, "pack": any("scaled" in name and "fp8" in name for name in sys.modules)})
