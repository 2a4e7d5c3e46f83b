"""Hostile headers, indices and configurations: read right or refused in a sentence, in linear time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scaled_fp8.quant import Refused, inspect_checkpoint, open_source, quantize_component, read_checkpoint
from scaled_fp8.quant.checkpoint.keys import SUFFIXES
from scaled_fp8.quant.cli import main
from scaled_fp8.quant.conversion.converter import convert
from scaled_fp8.quant.files import header, sets
from scaled_fp8.quant.kernels import proof_cache

SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.none(), st.text(max_size=3), st.booleans())
ENTRY = st.fixed_dictionaries({
    "dtype": st.sampled_from(["F32", "U8", "F8_E4M3", "F4", "", "x", 3, None]),
    "shape": st.lists(NUMBERS, max_size=4) | NUMBERS,
    "data_offsets": st.lists(NUMBERS | st.integers(0, 32), max_size=3) | NUMBERS,
})  # fmt: skip


def save_header(path: Path, content: object, data: bytes = bytes(32)) -> Path:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@SETTINGS
@given(st.dictionaries(st.text(max_size=8), ENTRY | NUMBERS, max_size=5))
def test_any_header_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: dict) -> None:
    path = save_header(tmp_path_factory.mktemp("h") / "m.safetensors", content)
    try:
        inspect_checkpoint(path)
    except Refused as refusal:
        assert "\n" not in str(refusal)


@SETTINGS
@example(scale=5e-4, companion="weight_scale")
@given(scale=st.floats(width=32), companion=st.sampled_from(["weight_scale", "scale_weight", "weight_scale_inv"]))
def test_any_scale_makes_weights_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, scale: float, companion: str
) -> None:
    path = tmp_path_factory.mktemp("s") / "m.safetensors"
    codes = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).mul(100).to(torch.float8_e4m3fn)
    save_file({"a.weight": codes, f"a.{companion}": torch.tensor(scale)}, path)
    try:
        weight = read_checkpoint(path)["a"].dequantize()
    except Refused:
        return
    assert bool(weight.isfinite().all()) and 1e-4 < float(weight.std()) < 2


def test_looking_for_a_key_twice_is_linear() -> None:
    """By the number of comparisons that a key counts itself."""

    class Counted(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    count = 4000
    names = [Counted(i) for i in range(count)] + [Counted(count - 1)]
    with pytest.raises(header.NotJson, match="twice"):
        header.once([(name, None) for name in names])
    assert Counted.compared < 20 * count


def test_first_bytes_of_a_file_that_is_no_checkpoint_are_not_told(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"SECRET-PASSWORD" * 100)
    with pytest.raises(Refused, match="header should be longer than the whole file") as refusal:
        open_source(tmp_path / "m.safetensors")
    assert str(int.from_bytes(b"SECRET-P", "little")) not in str(refusal.value)


UNRELATED = [b'{"a": Infinity}', b"[1]", b'{"a": 1, "a": 2}', b"{", b"\xff\xfe", b"[" * 50_000]


@pytest.mark.parametrize("content", UNRELATED, ids=range(len(UNRELATED)))
def test_a_configuration_that_says_nothing_of_quantization_does_not_refuse(tmp_path: Path, content: bytes) -> None:
    save_file({"a.weight": torch.randn(64, 64) * 0.02}, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_bytes(content)
    verdict = inspect_checkpoint(tmp_path / "m.safetensors")
    assert verdict.accepted and any("config.json" in reason for reason in verdict.reasons)
    (tmp_path / "config.json").write_bytes(content + b" quantization_config")
    with pytest.raises(Refused, match="config.json"):
        inspect_checkpoint(tmp_path / "m.safetensors")


def test_a_model_changed_in_any_file_has_another_stamp(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(4, 4)}, tmp_path / "m-1.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": "m-1.safetensors"}}))
    (tmp_path / "config.json").write_text("{}")
    for name in ("m-1.safetensors", "config.json", index.name):
        before, path = sets.stamps_of(index), tmp_path / name
        status, data = path.stat(), path.read_bytes()
        # of the same size and time
        (tmp_path / "new").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        os.utime(tmp_path / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(tmp_path / "new", path)
        assert sets.stamps_of(index) != before, name
        path.write_bytes(data)
    source = open_source(index)
    status, data = (tmp_path / "m-1.safetensors").stat(), (tmp_path / "m-1.safetensors").read_bytes()
    (tmp_path / "m-1.safetensors").write_bytes(data[:-1] + b"x")
    os.utime(tmp_path / "m-1.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(Refused, match="changed"):
        source.tensor("a.weight")


PROOFS = {
    "deep": b"[" * 200_000,
    "believed": b'{"e": {"q": {"error": 1e9, "reason": null}}}',
    "not a number": b'{"e": {"q": {"error": NaN, "reason": null}}}',
    "list": b"[1]",
    "large": b" " * (1 << 23),
}


@pytest.mark.parametrize("kind", PROOFS)
def test_kept_proofs_that_are_none_are_not_believed(tmp_path: Path, kind: str) -> None:
    (tmp_path / "probes.json").write_bytes(PROOFS[kind])
    assert proof_cache.read(tmp_path / "probes.json").get("e", {}) == {}


def test_pipes_hold_nothing_up(tmp_path: Path) -> None:
    for name in ("probes.json", "m.safetensors", "m.safetensors.index.json", "m.pt"):
        os.mkfifo(tmp_path / name)
        assert proof_cache.read(tmp_path / name) == {}
        with pytest.raises(Refused, match="not a regular file"):
            open_source(tmp_path / name)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system does not know, without a home."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("SCALED_FP8_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA", "HOME", "USER", "LOGNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("nobody")
def test_without_a_home_proofs_are_kept_nowhere() -> None:
    assert proof_cache.cache_file() is None


@pytest.mark.usefixtures("nobody")
def test_without_a_home_a_model_is_quantized_and_the_doctor_comes(capsys: pytest.CaptureFixture[str]) -> None:
    module, stats = quantize_component(torch.nn.Sequential(torch.nn.Linear(64, 64)), "fp8-dynamic", "transformer")
    assert stats.layers[0].quantized and module(torch.randn(2, 64)).isfinite().all()
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def refused_or_read(state: dict[str, torch.Tensor], path: Path) -> None:
    """Whatever is in a file, reading, looking and converting end well or in a refusal."""
    save_file(state, path)
    for work in (read_checkpoint, inspect_checkpoint, lambda p: convert(p, p.with_name("o.safetensors"), "bfloat16")):
        with contextlib.suppress(Refused):
            work(path)


SHAPES = [(), (1,), (2, 0), (0,), (16, 1), (4, 4), (1, 1, 1)]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("shape", [(0, 16), (16, 0), (0,), (0, 0), (16, 16), (3, 5), ()], ids=str)
def test_shapes_that_fit_nothing_crash_nothing(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    codes = torch.ones(shape).to(dtype)
    for scale in SHAPES:
        refused_or_read({"a.weight": codes, "a.weight_scale": torch.ones(scale)}, tmp_path / "m.safetensors")
        api = {f"a.{name}": torch.ones(scale) for name in ("scale", "scale_reciprocal", "input_scale")}
        refused_or_read({"a.float8_data": codes, **api}, tmp_path / "m.safetensors")


@SETTINGS
@given(
    companion=st.sampled_from(sorted(SUFFIXES)),
    value=st.floats(width=32),
    shape=st.lists(st.integers(0, 64), max_size=3),
    kind=st.sampled_from([torch.float32, torch.float16, torch.float8_e4m3fn, torch.int8, torch.uint8]),
)
def test_any_companion_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, companion: str, value: float, shape: list[int], kind: torch.dtype
) -> None:
    """Beside a sound scaled weight: what is read is that weight, or finite at least where a factor was added."""
    codes = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).mul(100).to(torch.float8_e4m3fn)
    state = {"a.weight": codes, "a.weight_scale": torch.tensor(5e-4)}
    state[f"a{companion}"] = torch.full(shape[:2], value).to(kind)
    path = tmp_path_factory.mktemp("c") / "m.safetensors"
    save_file(state, path)
    try:
        weight = read_checkpoint(path)["a"].dequantize()
    except (Refused, KeyError):
        return
    assert bool(weight.isfinite().all())
