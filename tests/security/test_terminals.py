"""Names from files in messages: no terminal obeys them. That no cell of a table begins a formula is in tests/web."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scaled_fp8.quant import Refused, read_checkpoint
from scaled_fp8.quant.text import printable


@pytest.mark.parametrize("text", ["\x1b[2J", "\x1b]0;title\x07", "\u202egnp", "\u2066x", "a\rb", "\x9b31m"])
def test_names_do_not_command_a_terminal(tmp_path: Path, text: str) -> None:
    assert str(Refused(f"layer {text}")).isprintable()
    save_file({f"{text}.weight": torch.ones(4, 4).to(torch.int8)}, tmp_path / "m.safetensors")
    with pytest.raises(Refused) as refusal:
        read_checkpoint(tmp_path / "m.safetensors")
    assert str(refusal.value).isprintable()


def test_what_can_be_printed_stays() -> None:
    assert printable("blocks.0.é.注意\n") == "blocks.0.é.注意\n"
