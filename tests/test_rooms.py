"""The rooms of quant/: each says in one sentence what it is for, and imports go one way between them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from scaled_fp8.quant.kernels.proof_cache import SOURCES

QUANT = Path(__file__).parents[1] / "quant"
# room -> rooms that it may import from; what is not listed here is the way that arrows must not go
ARROWS: dict[str, set[str]] = {
    "weights": set(),
    "files": set(),
    "distributed": {"weights", "kernels"},
    "checkpoint": {"weights", "files", "distributed"},
    "kernels": {"weights"},
    "recipes": {"weights", "kernels"},
    "nn": {"weights", "kernels", "recipes", "distributed"},
    "calibration": {"weights", "files", "checkpoint", "recipes"},
    "quality": {"weights", "files", "checkpoint", "kernels", "nn"},
    "conversion": {"weights", "files", "checkpoint", "recipes", "calibration", "quality"},
    "demo": {"weights", "checkpoint", "nn"},
}
ARROWS["cli"] = {*ARROWS}
# module -> the tests that run it, where no file bears its name
TESTED_BY = {
    "conversion/provenance.py": "quality/test_card.py",
    "cli/__main__.py": "test_cli.py",
    "cli/arguments.py": "test_cli.py",
    "cli/comparing.py": "test_cli.py",
    "cli/converting.py": "test_cli.py",
    "cli/inspecting.py": "test_cli.py",
    "cli/machine.py": "test_cli.py",
    "cli/output.py": "test_cli.py",
    "calibration/candidates.py": "calibration/test_planner.py",
    "calibration/curve.py": "calibration/test_plan.py",
    "calibration/feedback.py": "calibration/test_rounding.py",
    "calibration/priors.py": "calibration/test_planner.py",
    "calibration/moments.py": "calibration/test_rounding.py",
    "calibration/watching.py": "calibration/test_store.py",
    "checkpoint/checks.py": "checkpoint/test_plausibility.py",
    "checkpoint/dialect.py": "checkpoint/test_dialects.py",
    "checkpoint/kinds.py": "checkpoint/test_dialects.py",
    "checkpoint/marked_dialects.py": "checkpoint/test_dialects.py",
    "checkpoint/mma.py": "checkpoint/test_low_bits.py",
    "checkpoint/named_dialects.py": "checkpoint/test_dialects.py",
    "checkpoint/nunchaku.py": "checkpoint/test_low_bits.py",
    "checkpoint/scaled_dialects.py": "checkpoint/test_dialects.py",
    "checkpoint/signs.py": "checkpoint/test_dialects.py",
    "checkpoint/findings.py": "checkpoint/test_read.py",
    "distributed/agreement.py": "distributed/test_parallel.py",
    "distributed/gathering.py": "distributed/test_parallel.py",
    "distributed/partial.py": "distributed/test_parallel.py",
    "nn/matching.py": "nn/test_patch.py",
    "nn/params.py": "nn/test_tensor.py",
    "checkpoint/keys.py": "checkpoint/test_dialects.py",
    "checkpoint/layer.py": "checkpoint/test_dialects.py",
    "checkpoint/leftovers.py": "checkpoint/test_read.py",
    "checkpoint/metadata.py": "checkpoint/test_read.py",
    "checkpoint/module.py": "checkpoint/test_dialects.py",
    "checkpoint/recognition.py": "checkpoint/test_dialects.py",
    "checkpoint/sampling.py": "checkpoint/test_plausibility.py",
    "checkpoint/scale_fit.py": "checkpoint/test_dialects.py",
    "checkpoint/scale_shape.py": "checkpoint/test_dialects.py",
    "checkpoint/survey.py": "checkpoint/test_read.py",
    "conversion/batch.py": "test_cli.py",
    "conversion/jobs.py": "conversion/test_engines.py",
    "conversion/decisions.py": "conversion/test_converter.py",
    "conversion/quantizing.py": "conversion/test_converter.py",
    "conversion/ranges.py": "conversion/test_engines.py",
    "conversion/request.py": "conversion/test_converter.py",
    "conversion/result.py": "conversion/test_converter.py",
    "conversion/tasks.py": "conversion/test_converter.py",
    "conversion/values.py": "conversion/test_converter.py",
    "demo/model.py": "demo/test_run.py",
    "demo/picture.py": "demo/test_run.py",
    "files/header.py": "files/test_open.py",
    "files/memory.py": "files/test_open.py",
    "files/pickles.py": "files/test_open.py",
    "files/reader.py": "files/test_open.py",
    "files/claims.py": "conversion/test_manifest.py",
    "files/locks.py": "conversion/test_manifest.py",
    "files/remote.py": "conversion/test_manifest.py",
    "files/sets.py": "conversion/test_ownership.py",
    "files/shards.py": "files/test_open.py",
    "files/sidecars.py": "files/test_open.py",
    "files/stored.py": "files/test_open.py",
    "files/targets.py": "conversion/test_shards.py",
    "files/temporaries.py": "files/test_atomic.py",
    "kernels/activations.py": "kernels/test_registry.py",
    "kernels/choice.py": "kernels/test_speed.py",
    "kernels/diagnosis.py": "kernels/test_proof.py",
    "kernels/compiler.py": "kernels/test_compiled.py",
    "kernels/mode.py": "kernels/test_plan.py",
    "kernels/moment.py": "kernels/test_speed.py",
    "kernels/forward.py": "nn/test_linear.py",
    "kernels/probe.py": "kernels/test_proof.py",
    "kernels/rules.py": "kernels/test_registry.py",
    "kernels/quantizers.py": "kernels/test_proof.py",
    "kernels/upcast.py": "kernels/test_registry.py",
    "nn/backends.py": "nn/test_component.py",
    "nn/convolution.py": "nn/test_component.py",
    "nn/stats.py": "nn/test_component.py",
    "recipes/auto.py": "recipes/test_methods.py",
    "recipes/compile_warnings.py": "recipes/test_methods.py",
    "recipes/families.py": "recipes/test_policy.py",
    "recipes/parts.py": "conversion/test_converter.py",
    "weights/codebook.py": "weights/test_encode.py",
    "weights/formats.py": "weights/test_encode.py",
    "weights/granularity.py": "weights/test_encode.py",
    "weights/job.py": "weights/test_encode.py",
    "weights/native.py": "weights/test_encode.py",
    "weights/weight.py": "weights/test_encode.py",
}
ROOMS = sorted(path.name for path in QUANT.iterdir() if (path / "__init__.py").exists())
MODULES = sorted(path.relative_to(QUANT) for path in QUANT.glob("*/*.py"))
TESTS = Path(__file__).parent / "quant"


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """Modules of quant that a file of it imports, as parts below quant."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = path.relative_to(QUANT).parts[:-1]
            base = above[: len(above) - node.level + 1]
            module = (*base, *(node.module or "").split(".")) if node.module else base
            yield from {module, *((*module, alias.name) for alias in node.names)}


NODES = Path(__file__).parents[1] / "nodes"
# what ComfyUI gives to packs; everything else of it is its own
OFFERED = ("comfy_api", "folder_paths", "server")
INSIDE = ("comfy", "comfy_extras", "execution", "nodes", "latent_preview", "app")


@pytest.mark.parametrize("path", sorted(NODES.rglob("*.py")), ids=lambda path: path.relative_to(NODES).as_posix())
def test_only_the_host_touches_what_is_comfyuis_own(path):
    """And the host is below the nodes: it imports nothing of theirs."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            own = [name for name in names if name.split(".")[0] in INSIDE]
            assert not own or path.parent.name == "host", f"{own} is ComfyUI's own: ask nodes/host for what it says"
        elif isinstance(node, ast.ImportFrom) and path.parent.name == "host":
            above = node.level == 2 or (node.level == 3 and not (node.module or "quant").startswith("quant"))
            assert not above, f"nodes/host imports {node.module} from above: move what both need into the host"


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "quant").rglob("*.py")), ids=lambda path: path.stem
)
def test_the_engine_knows_nothing_of_comfyui(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not {name.split(".")[0] for name in names} & {*INSIDE, *OFFERED}


def test_every_room_is_drawn():
    assert sorted(ARROWS) == ROOMS


def test_the_drawing_has_no_circle():
    def below(room: str, path: tuple[str, ...] = ()) -> None:
        assert room not in path, f"{' -> '.join((*path, room))} is a circle"
        for other in ARROWS[room]:
            below(other, (*path, room))

    for room in ARROWS:
        below(room)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_arrows_go_one_way(module):
    room = module.parts[0]
    for target in imported(QUANT / module):
        other = target[0] if target and target[0] in ROOMS else room
        assert other == room or other in ARROWS[room], (
            f"quant/{module} imports {'.'.join(target)}, but {room} may use {sorted(ARROWS[room]) or 'no other room'}: "
            f"move what both need down, or the caller up"
        )


def test_modules_of_a_room_import_each_other_without_circles():
    arrows = {
        path: {target for target in imported(QUANT / path) if (QUANT.joinpath(*target).with_suffix(".py")).is_file()}
        for path in MODULES
    }
    done: set[Path] = set()

    def walk(path: Path, way: tuple[Path, ...]) -> None:
        assert path not in way, " -> ".join(map(str, (*way, path)))
        if path in done or path not in arrows:
            return
        for target in arrows[path]:
            walk(Path(*target).with_suffix(".py"), (*way, path))
        done.add(path)

    for path in MODULES:
        walk(path, ())


FOLDERS = (*(QUANT / room for room in ROOMS), NODES, *(path.parent for path in sorted(NODES.glob("*/__init__.py"))))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_room_says_what_it_is_for(folder):
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert said and "\n" not in said and said.endswith(".")


def test_a_proof_ends_when_a_room_changes_that_kernels_run_on():
    assert set(SOURCES) == {"kernels", *ARROWS["kernels"]}


@pytest.mark.parametrize("module", [path for path in MODULES if path.name != "__init__.py"], ids=str)
def test_every_module_is_tested_somewhere(module):
    own = module.with_name(f"test_{module.name}")
    listed = TESTED_BY.get(module.as_posix())
    assert (TESTS / own).exists() != (listed is not None), (
        f"quant/{module} needs tests/quant/{own.as_posix()} or a line in TESTED_BY, not both"
    )
    assert listed is None or (TESTS / listed).exists(), f"tests/quant/{listed} is not there"


def test_the_table_of_tests_has_no_stale_line():
    assert set(TESTED_BY) <= {path.as_posix() for path in MODULES}
