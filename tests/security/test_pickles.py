"""Hostile .pt files: nothing in them runs, reserves more than their bytes, or ends in another exception."""

from __future__ import annotations

import os
import pickle
import resource
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scaled_fp8.quant import Refused, open_source


class Calls:
    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


def archive(path: Path, code: bytes, packed: bool = False) -> Path:
    """A torch file whose pickle is this code."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", code)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/version", "3\n")
    return path


HOSTILE = {
    "runs": pickle.dumps({"x": Calls(os.system, "false")}, 2),
    "reserves": pickle.dumps({"x": Calls(bytearray, 3 << 30)}, 2),
    "reserves by protocol 4": pickle.dumps({"x": Calls(bytearray, 3 << 30)}, 4),
    "range": pickle.dumps({"x": Calls(range, 10)}, 2),
    "cut": pickle.dumps({"x": 1}, 2)[:-3],
    "empty": b"",
    "deep": b"\x80\x02" + b"(" * 100_000 + b".",
    "number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "no dictionary": pickle.dumps([1, 2], 2),
}


@pytest.mark.parametrize("name", ["model.pt", "model_map.pt"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_it_is_a_sentence_and_costs_nothing(tmp_path: Path, name: str, kind: str) -> None:
    archive(tmp_path / name, HOSTILE[kind])
    save_file({"a.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused, match=rf"{name}: .*; save it as safetensors\.$") as refusal:
        open_source(tmp_path / ("model.safetensors" if "map" in name else name))
    assert "\n" not in str(refusal.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_a_packed_pickle_is_refused(tmp_path: Path) -> None:
    archive(tmp_path / "m.pt", pickle.dumps({"x": "0" * 50_000_000}, 2), packed=True)
    assert (tmp_path / "m.pt").stat().st_size < 200_000
    with pytest.raises(Refused, match="packed"):
        open_source(tmp_path / "m.pt")


def test_one_that_shrinks_or_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"a": torch.ones(100_000)}, path)
    source = open_source(path)
    assert source.tensor("a").sum() == 100_000
    with open(path, "r+b") as file:
        file.truncate(5000)
    with pytest.raises(Refused, match="changed"):
        source.tensor("a")


def honest() -> bytes:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"honest-{os.getpid()}.pt"
    torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}, path)
    raw = path.read_bytes()
    path.unlink()
    return raw


HONEST = honest()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, len(HONEST) - 1), put=st.binary(max_size=6), gone=st.integers(0, 6))
def test_a_changed_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, put: bytes, gone: int
) -> None:
    path = tmp_path_factory.mktemp("p") / "m.pt"
    path.write_bytes(HONEST[:at] + put + HONEST[at + gone :])
    try:
        source = open_source(path)
        for name in source:
            source.tensor(name)
    except Refused as refusal:
        assert "\n" not in str(refusal)
