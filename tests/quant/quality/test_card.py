"""Cards: written by convert, read by anyone, the same each time; those of strangers harm nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import LayerError, Quality, Refused, Request, Side, open_source, read_checkpoint
from scaled_fp8.quant.checkpoint.fingerprint import fingerprint
from scaled_fp8.quant.conversion.converter import Options, convert
from scaled_fp8.quant.quality.card import CARDS, KEY, LONGEST, Card, card_in, card_text, parsed, summary_of
from torch import Tensor

FORMAT = "float8_e4m3fn"


def source(folder: Path, metadata: dict[str, str] | None = None) -> Path:
    generator = torch.Generator().manual_seed(0)
    state = {f"blocks.{i}.q.weight": torch.randn(64, 64, generator=generator) * 0.02 for i in range(3)}
    save_file(state | {"blocks.0.q.bias": torch.zeros(64)}, folder / "m.safetensors", metadata)
    return folder / "m.safetensors"


def card_of(path: Path) -> Card:
    with safe_open(path, "pt") as file:
        return parsed(file.metadata()[KEY])


def test_convert_says_how_it_was_made(tmp_path: Path) -> None:
    path = source(tmp_path)
    convert(
        path, tmp_path / "out.safetensors", Request(FORMAT, granularity="per-row", keep="blocks.1", unsupported=True)
    )
    card = card_of(tmp_path / "out.safetensors")
    assert (card.source, card.fingerprint) == ("m.safetensors", fingerprint(open_source(path)))
    assert (card.method, card.granularity) == (FORMAT, "per-row")
    assert card.layers == {f"{FORMAT} per-row": 2} and card.settings["keep"] == "blocks.1"
    assert [name for names in card.kept.values() for name in names] == ["blocks.1.q"]
    assert card.versions["torch"] == torch.__version__
    assert str(tmp_path) not in json.dumps(card.to_json())


def test_a_plan_is_the_method(tmp_path: Path, digits: dict[str, Tensor]) -> None:
    from scaled_fp8.quant.calibration.planner import PlanRequest, plan_checkpoint

    save_file({name: t for name, t in digits.items() if "single_blocks" in name}, tmp_path / "m.safetensors")
    plan = plan_checkpoint(tmp_path / "m.safetensors", PlanRequest("9 bits", ("float8_e4m3fn",)))
    convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", Request(None, plan=plan))
    assert card_of(tmp_path / "out.safetensors").method == f"plan for {plan.budget}"


def test_the_same_conversion_gives_the_same_bytes(tmp_path: Path) -> None:
    path = source(tmp_path)
    for name in "ab":
        convert(path, tmp_path / f"{name}.safetensors", FORMAT)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_what_a_source_was_made_of_becomes_history(tmp_path: Path) -> None:
    path = source(tmp_path, {"title": "kept"})
    for i, format in enumerate(("float16", "bfloat16", FORMAT)):
        convert(path, tmp_path / f"{i}.safetensors", format)
        path = tmp_path / f"{i}.safetensors"
    card = card_of(path)
    assert [card.source, *(one.source for one in card.history)] == ["1.safetensors", "m.safetensors", "0.safetensors"]
    assert [one.method for one in card.history] == ["float16", "bfloat16"]
    assert open_source(path).metadata["title"] == "kept"


def test_history_ends(tmp_path: Path) -> None:
    metadata: dict[str, str] = {}
    for i in range(CARDS + 3):
        metadata = Card(str(i), "", "", "", "", kept={"why": tuple(map(str, range(50)))}).metadata(metadata)
    found = parsed(metadata[KEY])
    assert [one.source for one in found.history] == [str(i) for i in range(2, CARDS + 2)]
    assert len(found.kept["why"]) == 50 and all(len(one.kept["why"]) == 4 for one in found.history)


def test_a_card_is_never_too_long_to_be_read() -> None:
    names = {f"reason {i}": tuple(f"{'x' * 900}{j}" for j in range(400)) for i in range(9)}
    written = Card("a", "", "", "", "", kept=names).metadata({})[KEY]
    assert len(written) <= LONGEST and parsed(written).kept.keys() == names.keys()
    hopeless = Card("a", "", "", "", "", settings={"keep": "y" * LONGEST}).metadata({})[KEY]
    assert parsed(hopeless).source == "a"


def test_figures_of_a_comparison_come_back_without_the_layers() -> None:
    layers = (LayerError("a", (2, 2), "", "", 30.0, 0.03), LayerError("b", (2, 2), "", "", -3.0, 1.4))
    quality = summary_of(Quality(Side("a"), Side("b"), {"psnr": float("inf")}, (0.1,), layers))
    found = parsed(replace(Card("a", "", "", "", ""), quality=quality).metadata({})[KEY])
    assert found.quality == quality and not quality.layers
    assert "1 of 2 layers" in quality.warnings[0] and "PSNR: identical" in "\n".join(found.lines())


GOOD = Card("a", "b", "c", "d", "e").to_json()
HOSTILE = {
    "huge": json.dumps(GOOD | {"source": "x" * LONGEST}),
    "no JSON": "{",
    "no object": "[1, 2]",
    "null": "null",
    "nested": "[" * 100_000,
    "nested objects": '{"a":' * 50_000,
    "another version": json.dumps(GOOD | {KEY: 2}),
    "huge number": json.dumps(GOOD)[:-1] + ', "x": ' + "9" * 5000 + "}",
    "layers that are words": json.dumps(GOOD | {"layers": {"a": "b"}}),
    "kept that is a list": json.dumps(GOOD | {"kept": ["a"]}),
    "history of itself": json.dumps(GOOD | {"history": [GOOD | {"history": [GOOD]}]}),
    "endless history": json.dumps(GOOD | {"history": [GOOD] * (CARDS + 1)}),
    "quality that is none": json.dumps(GOOD | {"quality": {"a": 1}}),
    "binary": "\x00\x1b[31m\u202e",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_stranger_s_card_stops_no_reader(tmp_path: Path, text: str) -> None:
    path = source(tmp_path, {KEY: text})
    assert card_in({KEY: text}) is None
    with pytest.raises(Refused, match="its card"):
        parsed(text)
    assert "cannot be said" in card_text({KEY: text})
    assert len(read_checkpoint(path).tensors) == 4
    convert(path, tmp_path / "out.safetensors", FORMAT)
    assert card_of(tmp_path / "out.safetensors").history == ()
    assert read_checkpoint(tmp_path / "out.safetensors").verdict.accepted


def test_a_file_without_a_card_says_nothing() -> None:
    assert card_in({}) is None and card_text({}) == ""


def test_shards_have_the_card_too(tmp_path: Path) -> None:
    convert(source(tmp_path), tmp_path / "out.index.json", FORMAT, Options(shard_size=6000))
    shards = sorted(tmp_path.glob("out*.safetensors"))
    assert len(shards) > 1 and len({str(card_of(shard)) for shard in shards}) == 1
    (index,) = tmp_path.glob("out*.index.json")
    assert card_in(open_source(index).metadata) == card_of(shards[0])


def test_tensors_are_those_of_a_file_without_a_card(tmp_path: Path) -> None:
    path = source(tmp_path)
    convert(path, tmp_path / "out.safetensors", "bfloat16")
    found, wanted = load_file(tmp_path / "out.safetensors"), load_file(path)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name].bfloat16()) for name in wanted)
