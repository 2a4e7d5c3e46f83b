"""inspect: what is in a checkpoint."""

from __future__ import annotations

from typing import Any

from ..errors import Refused
from .arguments import FILE, Arguments, command
from .output import DONE, REFUSED, complain, put, put_json


def add_inspect(commands: Any) -> None:
    one = command(commands, inspect, "say what dialect a checkpoint is in and what each layer is")
    one.add_argument("file", help=FILE)
    one.add_argument("--check", choices=("sample", "all"), default="sample", help="look at some codes (default) or all")


def inspect(arguments: Arguments) -> int:
    from ..checkpoint.read import survey
    from ..conversion.sizes import compare_parts, file_estimates

    try:
        checkpoint = survey(arguments.file, arguments.check)
        verdict = checkpoint.verdict
    except Refused as refusal:
        # no file to look into is a verdict too
        if arguments.json:
            put_json({"accepted": False, "dialect": "", "reasons": [str(refusal)], "layers": [], "totals": {}})
        raise
    if not verdict.accepted:
        put_json(verdict.to_json()) if arguments.json else put(verdict.table())
        return complain(verdict.sentence(), REFUSED)
    if arguments.json:
        sizes = {part: [row.to_json() for row in found] for part, found in file_estimates(checkpoint).items()}
        put_json({**verdict.to_json(), "memory": sizes})
    else:
        put(f"{verdict.table()}\n\n{compare_parts(checkpoint, free_memory())}")
    return DONE


def free_memory() -> int | None:
    """Bytes that are free on the GPU, None where there is none."""
    import torch

    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
