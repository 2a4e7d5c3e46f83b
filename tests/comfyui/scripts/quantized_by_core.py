"""Files of SaveQuantizedModel loaded by core's own loaders, in a ComfyUI that never heard of this pack."""

from __future__ import annotations

import sys
from pathlib import Path

from inside import REQUEST, answer, error, load_file, sample, unet


def latents(name: str):
    return load_file(Path(REQUEST["latents"]) / name)["latents"]


errors = {name: error(sample(unet(name), digits="0123"), latents(name)) for name in REQUEST["files"]}
answer({"errors": errors, "pack": any("scaled" in name and "fp8" in name for name in sys.modules)})
