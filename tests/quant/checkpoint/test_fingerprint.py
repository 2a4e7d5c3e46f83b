"""A fingerprint is of a model, not of a file; it reads a few kilobytes of any size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scaled_fp8.quant import StateDictSource, open_source
from scaled_fp8.quant.checkpoint.fingerprint import RUN, fingerprint
from scaled_fp8.quant.conversion.converter import Options, convert
from scaled_fp8.quant.files import stored
from torch import Tensor


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {f"blocks.{i}.q.weight": torch.randn(32, 64, generator=generator).bfloat16() for i in range(3)}
    return found | {"empty": torch.zeros(0), "one": torch.tensor(3.0), "codes": torch.zeros(9, dtype=torch.int8)}


def of(path: Path) -> str:
    return fingerprint(open_source(path))


def test_it_is_the_same_for_shards_and_for_other_metadata(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "a.safetensors")
    save_file(state(), tmp_path / "b.safetensors", {"author": "another"})
    convert(tmp_path / "a.safetensors", tmp_path / "c.index.json", "bfloat16", Options(shard_size=5000))
    assert len(list(tmp_path.glob("c*.safetensors"))) > 1
    whole = StateDictSource({name: t.bfloat16() if t.is_floating_point() else t for name, t in state().items()})
    assert of(tmp_path / "a.safetensors") == of(tmp_path / "b.safetensors") == fingerprint(StateDictSource(state()))
    assert of(next(tmp_path.glob("c*.index.json"))) == fingerprint(whole)


CHANGES = {
    "a value": {"blocks.1.q.weight": state()["blocks.1.q.weight"] * 1.01},
    "a scalar": {"one": torch.tensor(3.1)},
    "a dtype": {"blocks.1.q.weight": state()["blocks.1.q.weight"].half()},
    "a shape": {"blocks.1.q.weight": state()["blocks.1.q.weight"].reshape(64, 32)},
    "one more": {"blocks.3.q.weight": torch.zeros(2)},
    "none any more": {"empty": torch.zeros(0, 2)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_another_model_has_another(change: dict[str, Tensor]) -> None:
    assert fingerprint(StateDictSource(state() | change)) != fingerprint(StateDictSource(state()))


def test_only_a_run_of_each_tensor_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"w": torch.randn(512, 512)}, tmp_path / "m.safetensors")
    asked: list[int] = []
    piece = stored.Source.piece
    monkeypatch.setattr(
        stored.Source, "piece", lambda self, name, a, b: (asked.append(b - a), piece(self, name, a, b))[1]
    )
    of(tmp_path / "m.safetensors")
    assert asked == [RUN]
