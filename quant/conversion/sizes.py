"""What each part of a checkpoint would need in memory by each method, from its header alone."""

from __future__ import annotations

from ..checkpoint.read import Checkpoint
from ..recipes.memory import Estimate, compare_methods, estimates
from .parts import component_of, prefix_of

Shapes = dict[str, tuple[int, ...]]


def file_estimates(checkpoint: Checkpoint) -> dict[str, list[Estimate]]:
    """Component -> an estimate for each method that it can have; of those that the file holds."""
    return {component: estimates(shapes, component) for component, shapes in by_component(checkpoint).items()}


def by_component(checkpoint: Checkpoint) -> dict[str, Shapes]:
    """Component -> name and shape of each of its tensors, without quantization."""
    parts: dict[str, Shapes] = {}
    for name, shape in checkpoint.shapes().items():
        parts.setdefault(prefix_of(name), {})[name] = shape
    everything = [name for shapes in parts.values() for name in shapes]
    found: dict[str, Shapes] = {}
    for prefix, shapes in parts.items():
        found.setdefault(component_of(prefix, list(shapes), everything), {}).update(shapes)
    return found


def compare_parts(checkpoint: Checkpoint, free: int | None = None) -> str:
    """The estimates as tables, one a component; free: bytes that a device has left."""
    tables = (
        f"{component} in memory:\n{compare_methods(found, free)}"
        for component, found in file_estimates(checkpoint).items()
    )
    return "\n\n".join(tables)
