"""The dialects of quantized checkpoints: one entry each, in one table, in the order in which a module is asked."""

from __future__ import annotations

from .dialect import Dialect
from .marked_dialects import MARKED
from .module import Module
from .named_dialects import NAMED
from .scaled_dialects import SCALED

DIALECTS: tuple[Dialect, ...] = (*MARKED, *NAMED, *SCALED)


def dialect_of(module: Module) -> Dialect | None:
    """The first dialect of the table that the module is written in; a format that a marker names is binding."""
    return next((d for d in DIALECTS if d.marked == bool(module.format) and d.sign(module)), None)
