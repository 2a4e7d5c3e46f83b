"""A model card: Markdown that says what the header says, and nothing that a hostile header wants it to do."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from scaled_fp8.quant import Quality, Side, read_checkpoint
from scaled_fp8.quant.conversion.converter import convert
from scaled_fp8.quant.quality.card import Card, card_in
from scaled_fp8.quant.quality.model_card import escaped, model_card

HOSTILE = (
    "<script>alert(1)</script> | ![x](https://evil.example/a.png)\n# Title\n---\n"
    "`code` **bold** www.evil.example\u202e\x1b"
)


def made(tmp_path: Path) -> Path:
    save_file({f"blocks.{i}.q.weight": torch.randn(64, 64) * 0.02 for i in range(2)}, tmp_path / "bf16.safetensors")
    convert(tmp_path / "bf16.safetensors", tmp_path / "fp8.safetensors", "float8_e4m3fn")
    return tmp_path / "fp8.safetensors"


def test_it_says_what_the_file_is_and_how_it_was_made(tmp_path: Path) -> None:
    ckpt = read_checkpoint(made(tmp_path))
    card = card_in(ckpt.source.metadata)
    assert card
    quality = Quality(Side("bf16.safetensors"), Side("fp8.safetensors"), {"psnr": 31.4}, device="cpu")
    text = model_card(ckpt, replace(card, quality=quality))
    front, _, body = text.removeprefix("---\n").partition("---\n")
    assert "- float8_e4m3fn" in front.splitlines() and "# fp8.safetensors" in body.splitlines()
    for said in ("2 layers | float8\\_e4m3fn per-tensor", "bf16.safetensors", card.fingerprint, "31.40 dB"):
        assert said in body, said
    assert str(tmp_path) not in text


def test_a_file_that_says_nothing_has_one_too(tmp_path: Path) -> None:
    made(tmp_path)
    text = model_card(read_checkpoint(tmp_path / "bf16.safetensors"), None)
    assert "does not say" in text and "- quantized" not in text


def test_a_hostile_card_is_text(tmp_path: Path) -> None:
    side = Side(HOSTILE, HOSTILE)
    quality = Quality(side, side, {"psnr": 1.0}, warnings=(HOSTILE,), settings={HOSTILE: HOSTILE}, device=HOSTILE)
    one = Card(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, {HOSTILE: 1}, {HOSTILE: (HOSTILE,)}, {HOSTILE: HOSTILE})
    text = model_card(read_checkpoint(made(tmp_path)), replace(one, quality=quality, history=(one,)))
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "<" not in text and "https://" not in text and "www." not in text
    assert not re.search(r"(?<!\\)(!\[|\]\(|`|\*\*)", text)
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert heads == ["# fp8.safetensors", "## How it was made", "## Quality"]
    assert text.count("\n---\n") == 1


def test_escaped_text_means_itself() -> None:
    assert escaped("a_b|c\n<i>") == "a\\_b\\|c &lt;i&gt;"
