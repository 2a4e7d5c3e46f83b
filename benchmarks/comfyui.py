"""A real ComfyUI, found by COMFYUI_PATH and COMFYUI_PYTHON as the tests do, and work done by its own python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .results import Part

ROOT = Path(__file__).resolve().parents[1]
COMFYUI = Path(os.environ.get("COMFYUI_PATH", "~/comfy/ComfyUI")).expanduser()
LONGEST = 150
CORE, OURS = "ComfyUI core", "Scaled FP8"


def python() -> Path | None:
    """ComfyUI's own interpreter, None where there is no ComfyUI."""
    if not (COMFYUI / "main.py").is_file():
        return None
    places = (os.environ.get("COMFYUI_PYTHON"), COMFYUI / ".venv/bin/python", COMFYUI / "venv/bin/python")
    return next((Path(place) for place in places if place and Path(place).exists()), Path(sys.executable))


def environment(*importable: Path) -> dict[str, str]:
    """This environment with ComfyUI importable, then these folders, and without the outer python's own settings."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "VIRTUAL_ENV")}
    path = os.pathsep.join(map(str, (COMFYUI, *importable)))
    return kept | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def absent() -> str | None:
    """Why nothing can be measured inside ComfyUI, or None."""
    return None if python() else "no ComfyUI was found: set COMFYUI_PATH to one"


def skipped(name: str, title: str, reason: str) -> Part:
    """The part where there is no ComfyUI."""
    return Part(name, title, f"python -m benchmarks --only {name}", CORE, missing={"all": reason})


def make_base(folder: Path) -> Path:
    """An empty base directory of ComfyUI that has this pack."""
    for name in ("models/diffusion_models", "custom_nodes", "input", "output", "user", "temp"):
        (folder / name).mkdir(parents=True)
    (folder / "custom_nodes" / "scaled-fp8").symlink_to(ROOT)
    return folder


def inside(base: Path, work: str, longest: float = LONGEST, **request: object) -> dict:
    """What inside.py answers to a request, in a process of its own and within so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps({"work": work, "base": str(base), **request}))
        run("inside", str(asked), str(answered), folder=base, longest=longest)
        return json.loads(answered.read_text())


def run(module: str, *arguments: str, folder: Path = ROOT, longest: float = LONGEST) -> str:
    """What a module of benchmarks prints under ComfyUI's python; RuntimeError where it fails or takes too long."""
    command = [str(python()), "-m", f"benchmarks.{module}", *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment(ROOT), capture_output=True, text=True, timeout=longest, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{module} inside ComfyUI: took more than {longest:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing on stderr"]
        raise RuntimeError(f"{module} inside ComfyUI: {lines[-1][:300]}")
    return done.stdout
