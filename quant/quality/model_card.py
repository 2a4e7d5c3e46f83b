"""A file's page for a hub, as Markdown: what it is, how it was made, how far it is from what it was made of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ..checkpoint.read import Checkpoint
from ..text import few, printable
from .card import Card
from .checkpoints import file_name
from .quality import METRICS, Quality

SPECIAL = re.compile(r"([\\`*_\[\]#|~$])")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
SHOWN = 12  # layers of a reason


def model_card(ckpt: Checkpoint, card: Card | None) -> str:
    """The page of a checkpoint; card: what its header says, None where it says nothing."""
    name = file_name(ckpt.source)
    lines = ["---", "tags:", *(f"- {tag}" for tag in tags(ckpt)), "---", "", f"# {escaped(name)}", ""]
    lines += table(("of the file", ""), facts(ckpt))
    lines += ["", "## How it was made", "", *(made(card) if card else ("The file does not say.",))]
    if card and card.quality:
        lines += ["", "## Quality", "", *compared(card.quality)]
    return "\n".join(lines) + "\n"


def tags(ckpt: Checkpoint) -> list[str]:
    """Of what this package knows by name, never of what a file says."""
    formats = sorted({layer.format for layer in ckpt.verdict.layers if layer.format})
    return ["comfyui", *(["quantized", *formats] if formats else [])]


def facts(ckpt: Checkpoint) -> Iterator[tuple[str, str]]:
    verdict = ckpt.verdict
    counts = Counter(f"{layer.format} {layer.granularity}" for layer in verdict.layers)
    yield "size", f"{ckpt.source.total_bytes / 1e6:,.1f} MB"
    yield "dialect", verdict.dialect
    yield from ((f"{count} layers", what) for what, count in counts.most_common())
    yield "other tensors", str(len(ckpt.tensors))


def made(card: Card) -> Iterator[str]:
    """How a file was made, by its card."""
    versions = ", ".join(f"{name} {number}" for name, number in card.versions.items())
    rows = [("source", card.source), ("fingerprint of the source", card.fingerprint), ("with", card.maker)]
    rows += [("method", f"{card.method} {card.granularity}".rstrip()), ("versions", versions), *card.settings.items()]
    yield from table(("of its making", ""), rows)
    if card.kept:
        yield from ("", "Kept in the precision that they had:", "")
        yield from (f"- {escaped(reason)}: {escaped(few(names, SHOWN))}" for reason, names in card.kept.items())
    for earlier in card.history:
        yield from ("", f"Before that: {escaped(f'{earlier.source}, {earlier.maker}, {earlier.method}')}.")


def compared(quality: Quality) -> Iterator[str]:
    rows = [(METRICS[name].title, METRICS[name].shown(value)) for name, value in quality.metrics.items()]
    yield f"Against {escaped(quality.a.name)}:"
    yield ""
    yield from table(("figure", "value"), [*rows, *quality.settings.items(), ("device", quality.device)])
    yield from (f"\n{escaped(warning)}" for warning in quality.warnings)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Rows without a value are left out."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    yield from (f"| {' | '.join(map(escaped, row))} |" for row in rows if row[-1])


def escaped(text: str) -> str:
    """Text as Markdown that means itself: no markup, no HTML, one line."""
    plain = printable(" ".join(text.split()))
    marked = SPECIAL.sub(r"\\\1", "".join(ENTITIES.get(c, c) for c in plain))
    # what looks like an address would become a link
    return marked.replace("://", "&#58;//").replace("www.", "www&#46;")
