"""What each part of a checkpoint would need in memory by each method, from the shapes of its tensors alone."""

from __future__ import annotations

from .memory import Estimate, compare_methods, estimates
from .parts import by_prefix, component_of
from .unscaled import Shapes


def file_estimates(shapes: Shapes) -> dict[str, list[Estimate]]:
    """Component -> an estimate for each method that it can have. shapes: name -> shape, without quantization."""
    return {component: estimates(own, component) for component, own in by_component(shapes).items()}


def by_component(shapes: Shapes) -> dict[str, Shapes]:
    """Component -> the shapes of its tensors."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for prefix, own in by_prefix(shapes).items():
        found.setdefault(component_of(prefix, own, shapes), {}).update(own)
    return {**found}


def compare_parts(shapes: Shapes, free: int | None = None) -> str:
    """The estimates as tables, one a component; free: bytes that a device has left."""
    tables = (
        f"{component} in memory:\n{compare_methods(found, free)}" for component, found in file_estimates(shapes).items()
    )
    return "\n\n".join(tables)
