"""The card of a file: how it was made, in its own header, and what its header says of that, whoever wrote it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..errors import Refused
from ..records import UNFIT, each, maybe, text, texts, whole, worded
from ..text import few
from .quality import Quality

KEY = "scaled_fp8_card"
VERSION = 1
LONGEST = 1 << 20  # letters of a card
NAMES, CARDS = 500, 8  # layers of a reason where a card would be longer, and earlier cards, that are kept
SHOWN = 3  # layers in a line
TEXTS = ("source", "fingerprint", "maker", "method", "granularity")


@dataclass(frozen=True)
class Card:
    """How a file was made. source: what of, without folders; fingerprint: of that; maker: what
    wrote it; method, granularity: as they were asked for; layers: what became of them -> how many; kept: reason ->
    layers that stay in high precision; quality: the figures of a comparison, where one was made; history: cards of
    the files that the source was made of, the latest last.
    """

    source: str
    fingerprint: str
    maker: str
    method: str
    granularity: str
    layers: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    quality: Quality | None = None
    history: tuple[Card, ...] = ()

    def to_json(self) -> dict[str, Any]:
        quality = self.quality and self.quality.to_json()
        history = [card.to_json() for card in self.history]
        return {KEY: VERSION} | worded(asdict(self)) | {"quality": quality, "history": history}

    def metadata(self, earlier: Mapping[str, str]) -> dict[str, str]:
        """The header's entry; earlier: the metadata of the source, whose own card becomes history."""
        before = card_in(earlier)
        history = (*before.history, replace(before, history=()).shortened(SHOWN)) if before else ()
        whole = replace(self, history=history[-CARDS:])
        smaller = (whole, whole.shortened(NAMES), whole.shortened(SHOWN), replace(self, kept={}, settings={}))
        written = (json.dumps(card.to_json(), separators=(",", ":")) for card in smaller)
        return next(({KEY: card} for card in written if len(card) <= LONGEST), {})

    def shortened(self, most: int) -> Card:
        """With the first names of each reason, and how many more there are."""
        return replace(self, kept={reason: first(names, most) for reason, names in self.kept.items()})

    def lines(self) -> Iterator[str]:
        """For people, a line each."""
        made = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        yield f"made of {self.source} ({self.fingerprint or 'not there any more'}) by {self.maker}: {made}"
        yield f"method {self.method} {self.granularity}".rstrip()
        yield from (f"{count} layers: {what}" for what, count in self.layers.items())
        yield from (f"kept, {reason}: {few(names, SHOWN)}" for reason, names in self.kept.items())
        yield from (f"{name}: {value}" for name, value in self.settings.items())
        yield from self.quality.totals().splitlines() if self.quality else ()
        for card in self.history:
            yield f"before that: {card.source} by {card.maker}, method {card.method} {card.granularity}".rstrip()


def first(names: tuple[str, ...], most: int) -> tuple[str, ...]:
    return names if len(names) <= most else (*names[:most], f"and {len(names) - most} more")


def summary_of(quality: Quality) -> Quality:
    """The figures that go into a card: without the layers, whose noise stays as a sentence."""
    warnings = (quality.noise, *quality.warnings) if quality.noise else quality.warnings
    return replace(quality, layers=(), warnings=warnings)


##### From a header, which may come from anyone


def card_in(metadata: Mapping[str, str]) -> Card | None:
    """The card in a header, None where there is none that can be read."""
    try:
        return parsed(metadata[KEY]) if KEY in metadata else None
    except Refused:
        return None


def card_text(metadata: Mapping[str, str]) -> str:
    """What a header says of how its file was made, as text; "" where it says nothing."""
    try:
        return "\n".join(parsed(metadata[KEY]).lines()) if KEY in metadata else ""
    except Refused as problem:
        return f"how it was made cannot be said: {problem}"


def parsed(found: str) -> Card:
    """The card in a file's header; Refused, as a clause, where it is none."""
    if len(found) > LONGEST:
        raise Refused(f"its card has {len(found)} letters, more than any card of this package")
    try:
        return read(json.loads(found))
    except (*UNFIT, RecursionError, Refused):
        raise Refused("its card is not one of this package") from None


def read(found: Any, nested: bool = False) -> Card:
    """Raises one of UNFIT for what is no card; nested: that it is one of a history, which has none."""
    if found[KEY] != VERSION or len(found["history"]) > CARDS * (not nested):
        raise ValueError
    source, fingerprint, maker, method, granularity = map(text, (found[key] for key in TEXTS))
    return Card(
        source=source,
        fingerprint=fingerprint,
        maker=maker,
        method=method,
        granularity=granularity,
        layers={text(name): whole(count) for name, count in found["layers"].items()},
        kept={text(reason): each(text, names) for reason, names in found["kept"].items()},
        settings=texts(found["settings"]),
        versions=texts(found["versions"]),
        quality=maybe(Quality.from_json, found["quality"]),
        history=each(lambda card: read(card, True), found["history"]),
    )
