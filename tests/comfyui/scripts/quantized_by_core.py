"""Files of SaveQuantizedModel loaded by core's own loaders, in a ComfyUI that never heard of this pack."""

from __future__ import annotations

import sys
from pathlib import Path

from inside import REQUEST, answer, error, load_file, sample, unet


def latents(name: str):
    return load_file(Path(REQUEST["latents"]) / name)["latents"]


how = (REQUEST.get("steps", 12), REQUEST.get("digits", "0123"))
errors = {name: error(sample(unet(name), *how), latents(name)) for name in REQUEST["files"]}
answer({"errors": errors, "pack": any("scaled" in name and "fp8" in name for name in sys.modules)})
