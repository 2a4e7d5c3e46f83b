"""Contract tests against a real ComfyUI: found by COMFYUI_PATH and COMFYUI_PYTHON, driven as a subprocess."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from autoencoder import write_autoencoder
from server import Server, started
from text_encoders import write_text_encoders

from benchmarks.comfyui import COMFYUI, environment, python

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
DATA = REPOSITORY / "tests" / "data"
BF16 = "digits-flux2-bf16.safetensors"
PYTHON = python()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if PYTHON is None:
        absent = pytest.mark.skip(reason=f"no ComfyUI at {COMFYUI}; set COMFYUI_PATH")
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(absent)


def pytest_terminal_summary(terminalreporter) -> None:
    def count(*outcomes: str, part: str = "tests/comfyui/") -> int:
        reports = [r for outcome in outcomes for r in terminalreporter.stats.get(outcome, [])]
        return len({r.nodeid for r in reports if part in getattr(r, "nodeid", "")})

    for line in FIGURES:
        terminalreporter.write_line(line)
    reason = f" (no ComfyUI at {COMFYUI})" if PYTHON is None else f" ({COMFYUI})"
    ran, skipped = count("passed", "failed", "error"), count("skipped")
    terminalreporter.write_line(f"ComfyUI contract tests: {ran} ran, {skipped} skipped{reason}")
    browser = "tests/comfyui/test_browser.py"
    ran, skipped = count("passed", "failed", "error", part=browser), count("skipped", part=browser)
    terminalreporter.write_line(f"of these in a real browser: {ran} ran, {skipped} skipped")


FIGURES: list[str] = []


@pytest.fixture(scope="session")
def figure() -> Callable[[str], None]:
    """Notes one line for the end of the test run."""
    return FIGURES.append


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean base directory of ComfyUI: this pack, the digits model with its autoencoder, and test-only nodes."""
    base = tmp_path_factory.mktemp("comfyui")
    for folder in ("diffusion_models", "checkpoints", "loras", "text_encoders", "vae", "vae_approx"):
        (base / "models" / folder).mkdir(parents=True)
    for folder in ("custom_nodes", "input", "output", "user", "temp"):
        (base / folder).mkdir()
    (base / "custom_nodes" / "scaled-fp8").symlink_to(REPOSITORY)
    shutil.copytree(HERE / "digits_nodes", base / "custom_nodes" / "digits_nodes")
    shutil.copy(DATA / BF16, base / "models" / "diffusion_models")
    shutil.copy(DATA / "digits-conditioning.safetensors", base / "input")
    write_autoencoder(base / "models" / "vae_approx")
    return base


@pytest.fixture(scope="session")
def contract(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict]:
    """Runs a script of scripts/ inside ComfyUI's python; what it answered."""

    def run(name: str, **request: object) -> dict:
        folder = tmp_path_factory.mktemp("answers")
        asked, answered = folder / f"{name}.request.json", folder / f"{name}.json"
        asked.write_text(json.dumps({"base": str(base), "data": str(DATA), **request}))
        scripts = HERE / "scripts"
        command = [str(PYTHON), str(scripts / "start.py"), str(scripts / f"{name}.py"), str(asked), str(answered)]
        done = subprocess.run(
            command, cwd=base, env=environment(), capture_output=True, text=True, timeout=1800, check=False
        )
        assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        return json.loads(answered.read_text())

    return run


@pytest.fixture(scope="session")
def sweep(contract) -> Callable[..., dict]:
    """Runs a script that sweeps over names in a few processes, two at a time; their figures, and what is new."""

    def run(script: str, names: tuple[str, ...], dialects: tuple[str, ...]) -> dict:
        each = 16  # well inside a process's time
        parts = [names[start : start + each] for start in range(0, len(names), each)]
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda part: contract(script, names=part, dialects=dialects), parts))
        figures = {name: found for answer in answers for name, found in answer["figures"].items()}
        return {"figures": figures, "new": answers[0]["new"]}

    return run


@pytest.fixture(scope="session")
def clip_l(contract, base) -> dict[str, str]:
    """CLIP-L with random weights in models/text_encoders, in bf16 and several dialects: dialect -> file name."""
    contract("text_encoder", write=True)
    return write_text_encoders(base / "models" / "text_encoders", "clip_l.safetensors")


@pytest.fixture(scope="module")
def server(base, contract, clip_l, tmp_path_factory) -> Iterator[Server]:
    """A real server with this pack in custom_nodes."""
    contract("files")
    with started(base, tmp_path_factory.mktemp("server") / "log.txt") as server:
        yield server
