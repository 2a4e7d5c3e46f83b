"""The writer against the safetensors library's own files, and what it leaves behind: the whole file or nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import Refused
from scaled_fp8.quant.files import temporaries
from scaled_fp8.quant.files.header import DTYPES, info_of
from scaled_fp8.quant.files.temporaries import TEMPORARY
from scaled_fp8.quant.files.writer import write_safetensors
from torch import Tensor

STATE = {code: torch.arange(15).reshape(3, 5).to(dtype) for code, (_, dtype) in DTYPES.items() if dtype is not None}
STATE |= {"é.weight": torch.ones(3, dtype=torch.uint8), "empty": torch.empty(0, 4), "scalar": torch.tensor(2.0)}


def plan(state: dict[str, Tensor]) -> list[object]:
    return [info_of(name, tensor.dtype, tensor.shape) for name, tensor in state.items()]


@pytest.fixture(params=["nameless", "named"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where temporaries have no name, and one where they must have one."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE")
    return tmp_path


@pytest.mark.parametrize("metadata", [None, {"key": "välue"}], ids=["bare", "metadata"])
@pytest.mark.parametrize("backwards", [False, True])
def test_bytes_are_the_library_s_in_whatever_order_tensors_come(
    folder: Path, metadata: dict[str, str] | None, backwards: bool
) -> None:
    save_file(STATE, folder / "library", metadata)
    pairs = list(STATE.items())[:: -1 if backwards else 1]
    write_safetensors(folder / "ours", plan(dict(pairs)), iter(pairs), metadata)
    assert (folder / "ours").read_bytes() == (folder / "library").read_bytes()
    assert set(os.listdir(folder)) == {"ours", "library"}


def test_tensors_that_are_not_contiguous_are_written_as_they_read(folder: Path) -> None:
    state = {"x": torch.arange(12.0).reshape(3, 4).T, "y": torch.arange(12.0)[::2]}
    write_safetensors(folder / "m", plan(state), state.items())
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(folder / "m").items())


class Stop(BaseException):
    pass


FAILURES = {
    "interrupt": KeyboardInterrupt(),
    "exit": SystemExit(3),
    "refusal": Refused("no."),
    "anything": Stop(),
    "full": OSError(errno.ENOSPC, "No space left on device"),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("before", [None, b"what was there"], ids=["new", "replaced"])
def test_a_failure_leaves_what_was_there(folder: Path, failure: BaseException, before: bytes | None) -> None:
    target = folder / "m.safetensors"
    if before is not None:
        target.write_bytes(before)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        yield from list(STATE.items())[:3]
        raise failure

    with pytest.raises(Refused if isinstance(failure, OSError) else type(failure)):
        write_safetensors(target, plan(STATE), tensors())
    assert os.listdir(folder) == ([target.name] if before is not None else [])
    assert before is None or target.read_bytes() == before


def test_a_full_disk_is_refused_in_a_sentence(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    state = {"x": torch.ones(1000)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(Refused, match="disk is full"):
            write_safetensors(tmp_path / "m", plan(state), state.items())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert os.listdir(tmp_path) == []


def test_a_file_larger_than_the_disk_is_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="are needed"):
        write_safetensors(tmp_path / "m", [info_of("x", torch.uint8, (2**60,))], iter(()))
    assert os.listdir(tmp_path) == []


def test_targets_that_are_no_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path, tmp_path / "none" / "m", tmp_path / "pipe"):
        with pytest.raises(Refused, match=str(target)):
            write_safetensors(target, [], iter(()))


@pytest.mark.parametrize(
    "wrong", [{}, {"x": torch.ones(3)}, {"x": torch.ones(2).half()}], ids=["none", "shape", "dtype"]
)
def test_what_was_not_planned_is_an_error(folder: Path, wrong: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="planned"):
        write_safetensors(folder / "m", plan({"x": torch.ones(2)}), wrong.items())
    assert os.listdir(folder) == []


KILLED = """
import os, signal, sys, torch
from scaled_fp8.quant.files.header import info_of
from scaled_fp8.quant.files.writer import write_safetensors
if sys.argv[2] == "named":
    del os.O_TMPFILE
def tensors():
    yield "x", torch.ones(1000)
    os.kill(os.getpid(), signal.SIGKILL)
write_safetensors(sys.argv[1], [info_of(n, torch.float32, (1000,)) for n in "xy"], tensors())
"""


@pytest.mark.parametrize("kind", ["nameless", "named"])
def test_what_a_kill_leaves_is_gone_after_the_next_run(tmp_path: Path, kind: str) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "m", kind], cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == (kind == "named")
    write_safetensors(tmp_path / "other", plan(STATE), STATE.items())
    assert os.listdir(tmp_path) == ["other"]


def test_the_temporary_of_a_live_writer_stays(tmp_path: Path) -> None:
    live = tmp_path / TEMPORARY.format("1-2")
    with temporaries.create(live) as file:
        if not live.exists():
            temporaries.name_it(file, live)
            temporaries.fcntl.flock(file, temporaries.fcntl.LOCK_EX)
        write_safetensors(tmp_path / "other", plan(STATE), STATE.items())
        assert live.exists()
