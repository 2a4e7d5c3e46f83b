"""What users install: the wheel, the registry's archive, and what an import pulls in."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", "venv", "build", "dist", "node.zip", "node_modules", "__pycache__", "*.egg-info", ".*_cache"
)
ACCELERATORS = {
    "GPU :: NVIDIA CUDA", "GPU :: AMD ROCm", "GPU :: Intel Arc", "GPU :: Apple Metal", "NPU :: Huawei Ascend"
}  # fmt: skip
DEMO = "quant/demo/digits.safetensors"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as a repository of its own, so that nothing is built in this one."""
    copy = tmp_path_factory.mktemp("copy") / "scaled-fp8"
    shutil.copytree(REPOSITORY, copy, symlinks=True, ignore=NOT_SOURCE)
    author = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    for command in (("init", "-q"), ("add", "."), (*author, "commit", "-qm", "copy")):
        subprocess.run(["git", *command], cwd=copy, check=True)
    return copy


@pytest.fixture(scope="module")
def project() -> dict:
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def shipped(copy: Path) -> set[str]:
    """Every file of the engine, the nodes and the browser's side."""
    folders = [copy / name for name in ("quant", "nodes", "web")]
    files = {p.relative_to(copy).as_posix() for folder in folders for p in folder.rglob("*") if p.is_file()}
    assert {DEMO, "quant/__init__.py", "nodes/__init__.py"} <= files
    return files


def comfy(copy: Path, *command: str) -> str:
    """What comfy-cli says; its exit code is 0 even for a pack that the registry would refuse."""
    tool = Path(sys.executable).with_name("comfy")
    if not tool.exists():
        pytest.skip("comfy-cli is not installed")
    home = copy.parent / "home"
    home.mkdir(exist_ok=True)
    environment = os.environ | {"HOME": str(home), "COMFY_NO_WATCH": "1", "COMFY_CLI_NO_REMOTE_REFRESH": "1"}
    subprocess.run([tool, "tracking", "disable"], cwd=copy, env=environment, capture_output=True, check=True)
    done = subprocess.run([tool, *command], cwd=copy, env=environment, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_the_wheel_holds_engine_nodes_web_and_the_demo(copy: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, copy]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("scaled_fp8-*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {f"scaled_fp8/{name}" for name in shipped(copy)} <= names
    assert not [name for name in names if name.startswith(("tests/", "scaled_fp8/tests/", "scaled_fp8/training/"))]


def test_the_registry_accepts_the_pack(copy: Path) -> None:
    said = comfy(copy, "--skip-prompt", "node", "validate")
    assert "All validation checks passed" in said
    assert not [word for word in ("warning", "error", "failed") if word in said.lower()], said


def test_the_registry_refuses_a_pack_that_evaluates_text(copy: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(copy, bad)
    (bad / "nodes" / "bad.py").write_text("eval(input())\n")
    assert "All validation checks passed" not in comfy(bad, "--skip-prompt", "node", "validate")


def test_the_archive_holds_the_pack_and_no_tests(copy: Path) -> None:
    said = comfy(copy, "--skip-prompt", "node", "pack")
    assert "node.zip" in said
    with zipfile.ZipFile(copy / "node.zip") as archive:
        names = set(archive.namelist())
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", *shipped(copy)} <= names
    assert not [name for name in names if name.startswith(("tests/", "training/", "benchmarks/", ".ci/"))]


def test_the_engine_imports_nothing_of_comfyui() -> None:
    code = (
        "import importlib, pkgutil, sys; from scaled_fp8 import quant\n"
        "for m in pkgutil.walk_packages(quant.__path__, 'scaled_fp8.quant.'): importlib.import_module(m.name)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    modules = set(done.stdout.split())
    assert {"torch", "scaled_fp8.quant.demo", "scaled_fp8.quant.cli"} <= modules
    assert not {name.split(".")[0] for name in modules} & {"comfy", "server", "folder_paths", "comfy_api", "nodes"}


def test_no_engine_file_names_a_module_of_comfyui() -> None:
    imported = set()
    for path in (REPOSITORY / "quant").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).split(".")[0])
    assert not imported & {"comfy", "server", "folder_paths", "comfy_api", "nodes"}


def test_the_door_has_the_v3_entry_and_no_v1_mappings() -> None:
    import scaled_fp8

    assert (REPOSITORY / scaled_fp8.WEB_DIRECTORY).is_dir()
    assert callable(scaled_fp8.comfy_entrypoint)
    # its presence alone, even empty, disables the V3 entry
    assert not hasattr(scaled_fp8, "NODE_CLASS_MAPPINGS")


def test_the_project_table_is_what_the_registry_reads(project: dict) -> None:
    comfy, table = project["tool"]["comfy"], project["project"]
    assert comfy["PublisherId"] and comfy["DisplayName"] == "Scaled FP8"
    assert comfy["requires-comfyui"] == ">=0.33.0" and "web" not in comfy
    assert "comfyui" not in table["name"].lower() and len(table["version"].split(".")) == 3
    environments = {c.removeprefix("Environment :: ") for c in table["classifiers"] if c.startswith("Environment")}
    assert environments and environments <= ACCELERATORS


def test_comfyui_users_install_nothing_more() -> None:
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line.strip() and not line.startswith("#")] == []
