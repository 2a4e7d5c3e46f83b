"""inspect: what is in a checkpoint, and what it says of how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import Refused
from .arguments import FILE, Arguments, command
from .output import DONE, REFUSED, complain, put, put_json


def add_inspect(commands: Any) -> None:
    one = command(commands, inspect, "say what dialect a checkpoint is in and what each layer is")
    one.add_argument("file", help=FILE)
    one.add_argument("--check", choices=("sample", "all"), default="sample", help="look at some codes (default) or all")
    one.add_argument("--card", action="store_true", help="print a model card for a hub, as Markdown, instead")
    one.add_argument("-o", "--out", metavar="FILE.md", help="where the model card goes, instead of being printed")


def inspect(arguments: Arguments) -> int:
    from ..checkpoint.read import survey

    check_options(arguments)
    try:
        checkpoint = survey(arguments.file, arguments.check)
        verdict = checkpoint.verdict
    except Refused as refusal:
        # no file to look into is a verdict too
        if arguments.json:
            put_json({"accepted": False, "dialect": "", "reasons": [str(refusal)], "layers": [], "totals": {}})
        raise
    if not verdict.accepted:
        put_json(verdict.to_json()) if arguments.json else None if arguments.card else put(verdict.table())
        return complain(verdict.sentence(), REFUSED)
    if arguments.card:
        return put_card(checkpoint, arguments.out)
    put_found(checkpoint, arguments.json)
    return DONE


def check_options(arguments: Arguments) -> None:
    """Refused, before anything is read, where options do not go together."""
    if arguments.card and arguments.json:
        raise Refused("Both --card and --json are given: a model card is Markdown; leave one out.")
    if arguments.out and not arguments.card:
        raise Refused("Option -o is where a model card goes; say --card too.")
    if arguments.out and Path(arguments.out).suffix.lower() != ".md":
        raise Refused(f"{arguments.out}: a model card is Markdown; give a name that ends in .md.")


def put_found(checkpoint: Any, as_json: bool) -> None:
    """The verdict, what core would lose, what the parts would need in memory, and how the file was made."""
    from ..checkpoint.fingerprint import fingerprint
    from ..checkpoint.verdict import SCALED
    from ..quality.card import card_in, card_text
    from ..recipes.parts import lost_in_core
    from ..recipes.sizes import compare_parts, file_estimates

    verdict, source = checkpoint.verdict, checkpoint.source
    scaled = [layer.name for layer in verdict.layers if layer.decision == SCALED]
    lost = lost_in_core(checkpoint.shapes(), scaled)
    if as_json:
        sizes = {part: [row.to_json() for row in found] for part, found in file_estimates(checkpoint.shapes()).items()}
        card = card_in(source.metadata)
        made = {"fingerprint": fingerprint(source), "card": card and card.to_json()}
        put_json({**verdict.to_json(), "core": list(lost), "memory": sizes, **made})
    else:
        parts = (
            verdict.table(),
            "\n".join(lost),
            compare_parts(checkpoint.shapes(), free_memory()),
            card_text(source.metadata),
        )
        put("\n\n".join(filter(None, parts)))


def put_card(checkpoint: Any, out: str | None) -> int:
    from ..quality.card import card_in
    from ..quality.model_card import model_card
    from ..quality.page import written

    text = model_card(checkpoint, card_in(checkpoint.source.metadata))
    if out:
        written(out, text)
        put(f"{out}: written.")
    else:
        put(text.rstrip("\n"))
    return DONE


def free_memory() -> int | None:
    """Bytes that are free on the GPU, None where there is none."""
    import torch

    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
