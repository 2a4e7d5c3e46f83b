"""compare: how far two checkpoints are apart."""

from __future__ import annotations

from typing import Any

from .arguments import FILE, Arguments, command
from .output import DONE, bar, put, put_json


def add_compare(commands: Any) -> None:
    one = command(commands, compare, "measure how far the weights of two checkpoints are apart")
    one.add_argument("a", help=f"what B is measured against: {FILE}")
    one.add_argument("b", help="another one of the same model")


def compare(arguments: Arguments) -> int:
    from ..quality.comparison import compare

    comparison = compare(arguments.a, arguments.b, bar)
    put_json(comparison.to_json()) if arguments.json else put(comparison.table())
    return DONE
