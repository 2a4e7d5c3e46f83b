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
    "checkpoint": {"weights", "files"},
    "kernels": {"weights"},
    "recipes": {"weights", "kernels"},
    "nn": {"weights", "kernels", "recipes"},
    "conversion": {"weights", "files", "checkpoint", "recipes"},
    "demo": {"weights", "checkpoint", "nn"},
}
ROOMS = sorted(path.name for path in QUANT.iterdir() if (path / "__init__.py").exists())
MODULES = sorted(path.relative_to(QUANT) for path in QUANT.glob("*/*.py"))


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """Modules of quant that a file of it imports, as parts below quant."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = path.relative_to(QUANT).parts[:-1]
            base = above[: len(above) - node.level + 1]
            module = (*base, *(node.module or "").split(".")) if node.module else base
            yield from {module, *((*module, alias.name) for alias in node.names)}


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


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for(room):
    said = ast.get_docstring(ast.parse((QUANT / room / "__init__.py").read_text()))
    assert said and "\n" not in said and said.endswith(".")


def test_a_proof_ends_when_a_room_changes_that_kernels_run_on():
    assert set(SOURCES) == {"kernels", *ARROWS["kernels"]}
