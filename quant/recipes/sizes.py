"""What each part of a checkpoint would need in memory by each method, from the shapes of its tensors alone."""

from __future__ import annotations

from collections.abc import Mapping

from .memory import Estimate, compare_methods, estimates
from .parts import component_of, prefix_of

Shapes = Mapping[str, tuple[int, ...]]


def file_estimates(shapes: Shapes) -> dict[str, list[Estimate]]:
    """Component -> an estimate for each method that it can have. shapes: name -> shape, without quantization."""
    return {component: estimates(own, component) for component, own in by_component(shapes).items()}


def by_component(shapes: Shapes) -> dict[str, Shapes]:
    """Component -> the shapes of its tensors."""
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        parts.setdefault(prefix_of(name), {})[name] = shape
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for prefix, own in parts.items():
        found.setdefault(component_of(prefix, list(own), list(shapes)), {}).update(own)
    return {**found}


def compare_parts(shapes: Shapes, free: int | None = None) -> str:
    """The estimates as tables, one a component; free: bytes that a device has left."""
    tables = (
        f"{component} in memory:\n{compare_methods(found, free)}" for component, found in file_estimates(shapes).items()
    )
    return "\n\n".join(tables)
