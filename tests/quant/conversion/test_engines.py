"""Many files on a Ray of two workers: each result right and whole, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from safetensors.torch import load_file
from scaled_fp8.quant import Refused, cli, read_checkpoint
from scaled_fp8.quant.conversion import batch, engines
from scaled_fp8.quant.conversion.batch import run_batch, run_one
from scaled_fp8.quant.conversion.converter import Options
from scaled_fp8.quant.conversion.jobs import Work
from scaled_fp8.quant.conversion.manifest import MANIFEST
from scaled_fp8.quant.conversion.request import Request
from zoo import ZOO, tiny_model

DIALECTS = ("legacy-2", "comfy-header", "ltx-bare", "deepseek-alone", "quanto-alone")
WORK = Work(Request("bfloat16"), Options())
KILLS = 10


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of two workers on this machine."""
    pytest.importorskip("ray", reason='Ray is not installed: pip install "scaled-fp8[cluster]"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "cores", lambda: 2)
        # as the tests themselves: on a busy machine nicer workers would hardly start
        patch.setenv("RAY_worker_niceness", "0")
        with engines.connected(None) as ray:
            yield ray


def models(folder: Path, count: int, hidden: int = 128) -> dict[str, dict]:
    """Name -> weights of the models that lie in a folder, in all DIALECTS in turn."""
    folder.mkdir()
    found = {}
    for seed in range(count):
        specimen = ZOO[DIALECTS[seed % len(DIALECTS)]]
        found[f"{seed:02}.safetensors"] = model = tiny_model(hidden, seed=seed)
        specimen.write(model, folder / f"{seed:02}.safetensors")
    return found


def check_results(folder: Path, models: dict[str, dict]) -> None:
    """Every model once, and nothing else: no half one, and no temporary."""
    assert sorted(os.listdir(folder)) == sorted([*models, MANIFEST])
    for name, model in models.items():
        result = load_file(folder / name)
        assert result.keys() == model.keys()
        for key, weight in model.items():
            error = (result[key].float() - weight.float()).norm()
            assert error <= 0.06 * weight.float().norm(), (name, key)


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """Which file lies there by each name, and when it was written; the manifest may have been read since."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


##### Workers that die


def busy(folder: Path) -> list[int]:
    """Workers of Ray that have a file of the folder open."""
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if is_busy(pid, str(folder))]


def is_busy(pid: int, folder: str) -> bool:
    with suppress(OSError):
        if Path(f"/proc/{pid}/comm").read_text().startswith("ray::convert"):
            files = (os.readlink(fd.path) for fd in os.scandir(f"/proc/{pid}/fd"))
            return any(file.startswith(folder) for file in files)
    return False


def kill_some(folder: Path, count: int, killed: list[int], over: Event) -> None:
    """Kill workers at random moments, in the middle of a file."""
    chance = random.Random(0)
    while len(killed) < count and not over.wait(chance.uniform(0, 0.02)):
        # one that was killed may still have its files
        for pid in [pid for pid in busy(folder) if pid not in killed][:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="who has which file open is read from /proc")
def test_twenty_files_come_out_right_while_workers_are_killed(tmp_path: Path, ray: Any) -> None:
    known = models(tmp_path / "in", 20, hidden=384)
    killed: list[int] = []
    for turn in range(10):
        target, over = tmp_path / f"out{turn}", Event()
        killer = Thread(target=kill_some, args=(tmp_path, KILLS - len(killed), killed, over))
        killer.start()
        found = run_batch([str(tmp_path / "in")], str(target), WORK, "ray")
        over.set()
        killer.join()
        assert [entry.state for entry in found.entries.values()] == ["done"] * 20, found.table()
        check_results(target, known)
        if len(killed) >= KILLS:
            break
    assert len(set(killed)) == KILLS
    before = written(target)
    again = run_batch([str(tmp_path / "in")], str(target), WORK, "ray")
    assert not again.conversions and len(again.entries) == 20
    assert written(target) == before


##### One file in shards, a shard a worker


@pytest.fixture
def one_model(tmp_path: Path) -> Path:
    models(tmp_path / "in", 1, hidden=256)
    return tmp_path / "in" / "00.safetensors"


SHARDED = replace(WORK, options=Options(shard_size=1_000_000))


def test_shards_by_several_workers_are_those_of_one(tmp_path: Path, one_model: Path, ray: Any) -> None:
    for name in ("local", "ray"):
        (tmp_path / name).mkdir()
        found = run_one(str(one_model), str(tmp_path / name / "m.safetensors.index.json"), SHARDED, name)
        assert len(found.files) > 3 and found.bytes_before and found.checked
    names = sorted(os.listdir(tmp_path / "local"))
    assert sorted(os.listdir(tmp_path / "ray")) == names
    for name in names:
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def stopped_after(count: int) -> Callable:
    """An engine of this process that is interrupted."""

    def run(jobs, work, tell, address=None):
        yield from engines.on_this_machine(jobs[:count], work, tell)
        raise KeyboardInterrupt

    return run


def test_shards_that_are_there_are_not_done_again(
    tmp_path: Path, one_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / "m.safetensors.index.json"
    target.parent.mkdir()
    monkeypatch.setitem(engines.ENGINES, "stopped", stopped_after(2))
    monkeypatch.setitem(engines.ENGINES, "other", engines.on_this_machine)
    with pytest.raises(KeyboardInterrupt):
        run_one(str(one_model), str(target), SHARDED, "stopped")
    (hidden,) = os.listdir(target.parent)
    kept = {path.stat().st_ino for path in (target.parent / hidden).iterdir()}
    assert hidden.startswith(".scaled-fp8-") and len(kept) == 2
    # other options are other shards
    run_one(str(one_model), str(tmp_path / "out" / "n.safetensors.index.json"), SHARDED, "other")
    run_one(str(one_model), str(target), SHARDED, "other")
    assert kept < {path.stat().st_ino for path in target.parent.iterdir()}
    assert not [name for name in os.listdir(target.parent) if name.startswith(".")]
    whole = read_checkpoint(target)
    assert whole.tensors.keys() == tiny_model(256).keys()


def test_two_jobs_for_the_same_shards_are_one_too_many(
    tmp_path: Path, one_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = str(tmp_path / "m.safetensors.index.json")

    def twice(jobs, work, tell, address=None):
        with pytest.raises(Refused, match="another job"):
            run_one(str(one_model), target, SHARDED, "other")
        yield from engines.on_this_machine(jobs, work, tell)

    monkeypatch.setitem(engines.ENGINES, "twice", twice)
    monkeypatch.setitem(engines.ENGINES, "other", engines.on_this_machine)
    run_one(str(one_model), target, SHARDED, "twice")
    assert read_checkpoint(target).tensors


##### What an engine refuses, or cannot do


def sparse(path: Path, nbytes: int, part: int = 1 << 28) -> None:
    """A bf16 model of nbytes or a little more that takes no room itself, in weights that a worker has memory for."""
    names = [f"{i}.weight" for i in range(-(-nbytes // part))]
    places = {name: [i * part, (i + 1) * part] for i, name in enumerate(names)}
    header = {name: {"dtype": "BF16", "shape": [part // 128, 64], "data_offsets": at} for name, at in places.items()}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + len(names) * part)


def free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_file_without_room_fails_alone(tmp_path: Path, engine: str, request: pytest.FixtureRequest) -> None:
    if engine == "ray":
        request.getfixturevalue("ray")
    known = models(tmp_path / "in", 2)
    sparse(tmp_path / "in" / "large.safetensors", free(tmp_path) + (1 << 30))
    work = replace(WORK, request=Request("float32"))
    found = run_batch([str(tmp_path / "in")], str(tmp_path / "out"), work, engine)
    entry = found.entries["large.safetensors"]
    assert entry.state == "failed" and "bytes are needed" in entry.said and "\n" not in entry.said
    check_results(tmp_path / "out", known)


def test_a_file_that_no_machine_has_memory_for_fails_at_once(
    tmp_path: Path, ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = models(tmp_path / "in", 2)
    kept = batch.job_of

    def huge(src, dst):
        return replace(kept(src, dst), memory=(1 << 50) * src.endswith("01.safetensors"))

    monkeypatch.setattr(batch, "job_of", huge)
    found = run_batch([str(tmp_path / "in")], str(tmp_path / "out"), WORK, "ray")
    assert "largest machine" in found.said("failed")["01.safetensors"]
    check_results(tmp_path / "out", {"00.safetensors": known["00.safetensors"]})


def test_one_file_goes_through_an_engine_too(tmp_path: Path, ray: Any, capsys: pytest.CaptureFixture[str]) -> None:
    models(tmp_path / "in", 1)
    source, result = str(tmp_path / "in" / "00.safetensors"), str(tmp_path / "out.safetensors")
    assert cli.main(["convert", source, result, "--format", "bfloat16", "--engine", "ray"]) == 0
    assert "read back" in capsys.readouterr().out and load_file(result)
    Path(source).write_bytes(b"rubbish")
    assert cli.main(["convert", source, result, "--format", "bfloat16", "--engine", "ray"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    models(tmp_path / "in", 1)
    with pytest.raises(Refused, match=r"scaled-fp8\[cluster\]"):
        run_batch([str(tmp_path / "in")], str(tmp_path / "out"), WORK, "ray")
    assert not (tmp_path / "out").exists()


def test_an_address_is_for_an_engine_that_has_one(tmp_path: Path) -> None:
    models(tmp_path / "in", 1)
    with pytest.raises(Refused, match="--engine ray"):
        run_batch([str(tmp_path / "in")], str(tmp_path / "out"), WORK, "local", "127.0.0.1:1")
    assert not (tmp_path / "out").exists()
