"""Cards in headers, and reports as text: they come with the file, from anyone, and are read as text or not at all."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from scaled_fp8.quant import LayerError, Quality, Refused, Side, read_checkpoint
from scaled_fp8.quant.cli import main
from scaled_fp8.quant.quality.card import KEY, Card, card_in, card_text
from scaled_fp8.quant.quality.gate import figures_of
from scaled_fp8.quant.quality.model_card import model_card
from scaled_fp8.quant.quality.page import page

COMMANDS = "\x1b[2J\x1b]0;title\x07\u202egnp\u2066\x9b31m\ud800</script><img src=x onerror=alert(1)>\n# Title\n---\n"
LAYER = LayerError("a", (2, 3), "bfloat16", "fp8", 30.0, 0.1)
QUALITY = Quality(
    Side("a", "b", 5, 0.1, 0.2, 7), Side("b"), {"psnr": 31.4, "latent_error": 0.1}, (0.1,), (LAYER,),
    warnings=("w",), settings={"s": "t"}, versions={"v": "1"}, device="cpu",
)  # fmt: skip
PLAIN = Card("a", "b", "c", "d", "e")
CARD = Card("a", "b", "c", "d", "e", {"fp8": 3}, {"why": ("n",)}, {"s": "t"}, {"v": "1"}, QUALITY, (PLAIN,)).to_json()
ODD: dict[str, Any] = {
    "null": None, "list": [], "object": {}, "true": True, "word": "x", "zero": 0, "negative": -1, "huge": 10**400,
    "huge, negative": -(10**400), "large": 1e308, "NaN": float("nan"), "inf": "inf", "float": 1.5, "deep": [[[]]],
    "commands": COMMANDS, "commands as names": {COMMANDS: COMMANDS}, "many": {str(i): i for i in range(2000)},
    "letters": "x" * 10_000, "figure": {"psnr": 10**400}, "no figure": {"beauty": 1}, "numbers": [10**400] * 3,
    "objects": [{"name": "x"}],
}  # fmt: skip


def places(found: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value of some JSON."""
    yield above
    inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in inner:
        yield from places(value, (*above, key))


def changed(place: tuple[Any, ...], value: Any) -> str:
    if not place:
        return json.dumps(value)
    whole = copy.deepcopy(CARD)
    part: Any = whole
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return json.dumps(whole)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_file({"a.weight": torch.ones(4, 4)}, path)
    return path


@pytest.mark.parametrize("kind", ODD)
def test_any_value_anywhere_is_text_or_no_card(kind: str, model: Path) -> None:
    checkpoint = read_checkpoint(model)
    for place in places(CARD):
        text = changed(place, ODD[kind])
        said, card = card_text({KEY: text}), card_in({KEY: text})
        assert said
        markdown = model_card(checkpoint, card)
        assert all(c.isprintable() or c == "\n" for c in markdown) and "<img" not in markdown
        assert [line for line in markdown.splitlines() if line.startswith("# ")] == ["# m.safetensors"]
        json.dumps(card and card.to_json(), allow_nan=False)
        assert len(PLAIN.metadata({KEY: text})) == 1
        if card and card.quality:
            assert all(c.isprintable() or c == "\n" for c in page(card.quality))


@pytest.mark.parametrize("place", [p for p in places(CARD) if p and isinstance(p[-1], str)], ids=str)
@pytest.mark.parametrize("how", [[], ["--json"], ["--card"]], ids=["text", "json", "card"])
def test_a_terminal_obeys_no_card(
    place: tuple[Any, ...], how: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"a.weight": torch.ones(4, 4)}, tmp_path / "m.safetensors", {KEY: changed(place, COMMANDS)})
    assert main(["inspect", str(tmp_path / "m.safetensors"), *how]) == 0
    printed = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in printed.out + printed.err)


@pytest.mark.parametrize("text", [
    "[" * 200_000, '{"a":' * 100_000, '{"psnr": ' + "9" * 400 + "}", "9" * 9999, '{"psnr": "\x1b"}', '{"psnr": [1]}',
    '{"psnr": {}}', "null", '"psnr"', "{", "\x00",
], ids=range(11))  # fmt: skip
def test_a_forged_line_of_figures_is_a_sentence(text: str) -> None:
    with pytest.raises(Refused, match="has no line of figures"):
        figures_of(f"a report\n\nfigures: {text}")
