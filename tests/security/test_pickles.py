"""Hostile .pt files: nothing in them runs, reserves more than their bytes, or ends in another exception."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import resource
import subprocess
import sys
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


@pytest.mark.parametrize("name", ["model.pt", "model_map.pt", "model.pth", "model.bin", "model.ckpt"])
@pytest.mark.parametrize("old", [False, True], ids=["archive", "bare"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_it_is_a_sentence_and_costs_nothing(tmp_path: Path, name: str, old: bool, kind: str) -> None:
    """In an archive, as torch writes today, and bare, as it did before."""
    (tmp_path / name).write_bytes(HOSTILE[kind])
    if not old:
        archive(tmp_path / name, HOSTILE[kind])
    save_file({"a.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused, match=rf"{name}: .*; save it as safetensors\.$") as refusal:
        open_source(tmp_path / ("model.safetensors" if "map" in name else name))
    assert "\n" not in str(refusal.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.pkl", "pytorch_model.bin"])
def test_no_index_has_a_pickle_opened(tmp_path: Path, name: str) -> None:
    archive(tmp_path / name, HOSTILE["runs"])
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(Refused, match="is not the name of a safetensors file"):
        open_source(tmp_path / "m.safetensors.index.json")


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


def test_views_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    whole = torch.arange(60.0).reshape(3, 4, 5)
    state = {
        "whole": whole,
        "turned": whole.transpose(0, 2),
        "part": whole[1:, ::2, 3],
        "empty": torch.empty(0, 3),
        "number": torch.tensor(2.5, dtype=torch.bfloat16),
        "codes": torch.ones(5, 7).to(torch.float8_e4m3fn),
        "parameter": torch.nn.Parameter(torch.randn(3)),
    }
    torch.save(state, tmp_path / "m.pt")
    source, truth = open_source(tmp_path / "m.pt"), torch.load(tmp_path / "m.pt")
    assert list(source) == list(truth)
    for name, tensor in truth.items():
        assert torch.equal(source.tensor(name).float(), tensor.detach().float()), name
        half = tensor.numel() // 2
        assert torch.equal(source.piece(name, half, tensor.numel()).float(), tensor.detach().flatten()[half:].float())


def claiming(size: tuple[int, ...], stride: tuple[int, ...], first: int) -> bytes:
    """The pickle of a tensor over the storage of four floats, of any size, strides and beginning."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if value is storage else None

    storage, stream = Calls(int), io.BytesIO()
    arguments = (storage, first, size, stride, False, collections.OrderedDict())
    Pickler(stream, 2).dump({"a": Calls(torch._utils._rebuild_tensor_v2, *arguments)})
    return stream.getvalue()


# size, strides, beginning
CLAIMS = {
    "far": ((4,), (1,), 1),
    "wide": ((100, 100), (0, 1), 0),
    "steps": ((4,), (1000,), 0),
    "before": ((4,), (1,), -1),
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_no_view_reaches_beyond_its_storage(tmp_path: Path, kind: str) -> None:
    path = archive(tmp_path / "m.pt", claiming(*CLAIMS[kind]))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/data/0", bytes(16))
        file.writestr("archive/data/1", b"secret" * 20_000)
    with pytest.raises(Refused) as refusal:
        source = open_source(path)
        source.tensor("a")
    assert "\n" not in str(refusal.value)


# what goes on while a model is read: its file is cut and grows again, thousands of times
CUT = """
import sys, threading
from pathlib import Path
from scaled_fp8.quant import Refused, read_checkpoint
path = Path(sys.argv[1])
cut, left, seen = path.with_name(sys.argv[2]), threading.Event(), {"read": 0}
whole = cut.read_bytes()
def cutting():
    while not left.is_set():
        with open(cut, "r+b") as file:
            file.truncate(4096)
            file.truncate(len(whole))
            file.seek(0)
            file.write(whole)
thread = threading.Thread(target=cutting)
thread.start()
try:
    for _ in range(100):
        try:
            found = read_checkpoint(path)
            for name in found:
                found[name].dequantize()
            for name in found.tensors:
                found.tensors[name]
            seen["read"] += 1
        except Refused as refusal:
            assert str(refusal) and "\\n" not in str(refusal)
            seen["refused"] = seen.get("refused", 0) + 1
finally:
    left.set()
    thread.join()
print(seen)
"""


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model_map.pt", "fp8_scales.safetensors"])
def test_a_file_that_shrinks_while_it_is_read_ends_in_a_sentence(tmp_path: Path, name: str) -> None:
    """Not in a signal: nothing is mapped. A map of a file that is cut ends the process at the first look."""
    codes = {"a.weight": (torch.randn(256, 128) * 30).to(torch.float8_e4m3fn), "a.bias": torch.randn(256)}
    scale, sidecar = torch.tensor(1e-3), "model" not in name or "map" in name
    main = tmp_path / ("model.pt" if name.endswith(".pt") else "model.safetensors")
    whole = codes if sidecar else codes | {"a.weight_scale": scale}
    torch.save(whole, main) if main.suffix == ".pt" else save_file(whole, main)
    if name == "model_map.pt":
        torch.save({"a": scale, "rest": torch.ones(5000)}, tmp_path / name)
    elif sidecar:
        save_file({"a.weight_scale": scale}, tmp_path / name)
    result = subprocess.run([sys.executable, "-c", CUT, main, name], capture_output=True, text=True)
    assert result.returncode == 0, (result.returncode, result.stderr)


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
