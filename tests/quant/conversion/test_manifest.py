"""Jobs that are started again, over folders and URLs: what is missing is done, nothing twice, none half."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from scaled_fp8.quant import Refused, cli
from scaled_fp8.quant.conversion import engines
from scaled_fp8.quant.conversion.batch import described, run_batch
from scaled_fp8.quant.conversion.converter import Options
from scaled_fp8.quant.conversion.jobs import Work
from scaled_fp8.quant.conversion.manifest import MANIFEST
from scaled_fp8.quant.conversion.request import Request
from scaled_fp8.quant.files import claims
from scaled_fp8.quant.files.locks import LOCK, only_job

WORK = Work(Request("bfloat16"), Options())


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for files."""
    if request.param == "folder":
        return str(tmp_path)
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    return "memory://job"


def put(place: str, name: str, data: bytes) -> None:
    with fsspec.open(f"{place}/{name}", "wb", auto_mkdir=True) as file:
        file.write(data)


def get(place: str, name: str) -> bytes:
    with fsspec.open(f"{place}/{name}", "rb") as file:
        return file.read()


def names(place: str) -> set[str]:
    system, path = fsspec.core.url_to_fs(place)
    return {os.path.basename(one) for one in system.ls(path, detail=False)}


def model(value: float) -> bytes:
    return save({"blocks.0.q.weight": torch.full((64, 64), value)}, {"format": "pt"})


def three(place: str) -> None:
    for number, name in enumerate("abc"):
        put(f"{place}/in", f"{name}.safetensors", model(number + 1.0))


def run(place: str, work: Work = WORK):
    return run_batch([f"{place}/in"], f"{place}/out", work)


def test_only_what_is_missing_is_done(place: str) -> None:
    three(place)
    assert run(place).conversions.keys() == {"a.safetensors", "b.safetensors", "c.safetensors"}
    for number, name in enumerate("abc"):
        assert (load(get(f"{place}/out", f"{name}.safetensors"))["blocks.0.q.weight"] == number + 1).all()
    assert names(f"{place}/out") == {"a.safetensors", "b.safetensors", "c.safetensors", MANIFEST}
    again = run(place)
    assert not again.conversions and {entry.state for entry in again.entries.values()} == {"done"}
    # another source, a result that is gone
    put(f"{place}/in", "a.safetensors", model(7.0) + b"")
    system, path = fsspec.core.url_to_fs(f"{place}/out/b.safetensors")
    system.rm_file(path)
    assert run(place).conversions.keys() == {"a.safetensors", "b.safetensors"}
    assert (load(get(f"{place}/out", "a.safetensors"))["blocks.0.q.weight"] == 7).all()


def test_a_job_that_is_stopped_goes_on_where_it_was(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    three(place)
    kept = engines.attempt

    def stopped(job, work, tell):
        if job.name == "b.safetensors":
            raise KeyboardInterrupt
        return kept(job, work, tell)

    monkeypatch.setattr(engines, "attempt", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(place)
    assert names(f"{place}/out") == {"a.safetensors", MANIFEST}
    monkeypatch.undo()
    assert run(place).conversions.keys() == {"b.safetensors", "c.safetensors"}


def test_what_is_refused_or_fails_is_kept_with_its_sentence_and_tried_again(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    three(place)
    put(f"{place}/in", "b.safetensors", b"rubbish")
    kept = engines.attempt
    broken = lambda job, work, tell: kept(job if "c." not in job.name else None, work, tell)  # noqa: E731
    monkeypatch.setattr(engines, "attempt", broken)
    found = run(place)
    states = {name: entry["state"] for name, entry in json.loads(get(f"{place}/out", MANIFEST))["files"].items()}
    assert states == {"a.safetensors": "done", "b.safetensors": "refused", "c.safetensors": "failed"}
    assert "safetensors" in found.said("refused")["b.safetensors"] and found.sentence().count("\n") == 0
    monkeypatch.undo()
    put(f"{place}/in", "b.safetensors", model(2.0))
    assert run(place).conversions.keys() == {"b.safetensors", "c.safetensors"}


OTHERS = {
    "format": replace(WORK, request=Request("float16")),
    "keep": replace(WORK, request=Request("bfloat16", keep="blocks")),
    "shards": replace(WORK, options=Options(shard_size=5000)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_options_are_another_job(place: str, kind: str) -> None:
    three(place)
    run(place)
    before = {name: get(f"{place}/out", name) for name in names(f"{place}/out")}
    with pytest.raises(Refused, match="started with .*, and this one has .*; name another folder"):
        run(place, OTHERS[kind])
    assert {name: get(f"{place}/out", name) for name in names(f"{place}/out")} == before


ASKED = json.loads(json.dumps(described(WORK)))
FIELDS = {"state": "done", "said": "", "results": 3}
NUMBERS = json.dumps({"version": 1, "asked": ASKED, "files": {"a.safetensors": FIELDS}}).encode()


@pytest.mark.parametrize(
    "text", [b"[]", b"{", b'{"version": 2}', b'{"version": 1, "files": {"a": 3}}', b"\xff", NUMBERS]
)
def test_a_manifest_that_is_none_is_a_sentence(place: str, text: bytes) -> None:
    three(place)
    put(f"{place}/out", MANIFEST, text)
    with pytest.raises(Refused, match="remove"):
        run(place)
    assert names(f"{place}/out") == {MANIFEST} and get(f"{place}/out", MANIFEST) == text


def test_two_jobs_in_one_folder_are_one_too_many(place: str) -> None:
    three(place)
    put(f"{place}/out", "other.txt", b"")
    with only_job(f"{place}/out") as check:
        before = names(f"{place}/out")
        assert len(before) == 2
        with pytest.raises(Refused, match="another job"):
            run(place)
        assert names(f"{place}/out") == before
        check()
    assert names(f"{place}/out") == {"other.txt"}
    assert run(place).conversions and names(f"{place}/out") == {"a.safetensors", "b.safetensors", "c.safetensors"} | {
        MANIFEST,
        "other.txt",
    }


def test_a_killed_job_leaves_its_folder_free(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    with only_job(str(tmp_path)):
        pass
    assert os.listdir(tmp_path) == []


##### URLs


@pytest.fixture
def memory() -> str:
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    return "memory://models"


def left_by_a_killed_job(folder: str, seconds: float) -> Any:
    """The claim of a job that ended without a word so long ago, by the store's clock."""
    path = claims.CLAIM.format("killed")
    put(folder, path, b'{"host": "elsewhere"}')
    file = fsspec.filesystem("memory").store[f"/{folder.removeprefix('memory://')}/{path}"]
    file.modified -= timedelta(seconds=seconds)
    return file


def test_what_a_killed_job_left_at_a_url_is_taken_over_once_it_is_old(memory: str) -> None:
    left_by_a_killed_job(memory, claims.DEAD / 2)
    with (
        pytest.raises(Refused, match=r"another job writes there, on elsewhere; .* free in (90|89) s"),
        only_job(memory),
    ):
        pass
    assert names(memory) == {claims.CLAIM.format("killed")}
    left_by_a_killed_job(memory, claims.DEAD + 1)
    with only_job(memory):
        assert len(names(memory)) == 1
        with pytest.raises(Refused, match="another job"), only_job(memory):
            pass
    assert not names(memory)


def test_a_store_that_says_no_times_keeps_a_claim(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left_by_a_killed_job(memory, 10 * claims.DEAD)

    def unknown(system, path):
        raise NotImplementedError

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "modified", unknown)
    with pytest.raises(Refused, match=r"was killed; wait for it, or remove memory://models/\.scaled"), only_job(memory):
        pass


def test_of_two_jobs_that_start_at_once_never_both_have_the_folder(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every order of their steps: each writes its claim, then looks for others."""
    for order in set(permutations("AABB")):
        jobs = {name: claims.Claim(memory) for name in "AB"}
        steps = {name: iter((job.renew, job.refuse_others)) for name, job in jobs.items()}
        refused = set()
        for name in order:
            try:
                next(steps[name])()
            except Refused:
                refused.add(name)
                jobs[name].end()
        assert refused, order
        for job in jobs.values():
            job.end()


def test_a_job_that_stood_still_for_too_long_stops(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    three(memory)
    kept = engines.attempt

    def overtaken(job, work, tell):
        # as if all of this process had been stopped meanwhile
        for path in claims.claims_in(f"{memory}/out"):
            claims.remove(path)
        left_by_a_killed_job(f"{memory}/out", 0)
        return kept(job, work, tell)

    monkeypatch.setattr(engines, "attempt", overtaken)
    with pytest.raises(Refused, match="another may have taken its place; start it again"):
        run(memory)
    assert MANIFEST not in names(f"{memory}/out")
    assert claims.CLAIM.format("killed") in names(f"{memory}/out")


def test_a_claim_is_renewed_as_long_as_the_job_runs(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.001)
    renewed = Event()

    def renew(claim):
        kept(claim)
        if current_thread() is not main_thread():
            renewed.set()

    kept = claims.Claim.renew
    monkeypatch.setattr(claims.Claim, "renew", renew)
    with only_job(memory):
        assert renewed.wait(60)


def test_shards_scales_and_configurations_come_along(memory: str, tmp_path: Path) -> None:
    """A sharded DeepSeek folder, whose config says how it is scaled."""
    from zoo import ZOO, tiny_model

    tiny = tiny_model()
    source = ZOO["deepseek"].write(tiny, tmp_path / "in")
    folder = source if source.is_dir() else source.parent
    for path in folder.iterdir():
        put(memory, path.name, path.read_bytes())
    main = next(path.name for path in folder.iterdir() if path.name.endswith((".index.json", ".safetensors")))
    out = tmp_path / "out.safetensors"
    assert cli.main(["convert", f"{memory}/{main}", str(out), "--format", "float32"]) == 0
    assert cli.main(["convert", str(source), str(tmp_path / "same.safetensors"), "--format", "float32"]) == 0
    mine, local = load_file(out), load_file(tmp_path / "same.safetensors")
    assert mine.keys() == local.keys() and all(torch.equal(mine[name], local[name]) for name in local)


def test_a_result_goes_to_a_url_whole_with_its_shards(memory: str, tmp_path: Path) -> None:
    state = {f"blocks.{i}.q.weight": torch.randn(64, 64) for i in range(4)}
    save_file(state, tmp_path / "m.safetensors")
    command = ["convert", str(tmp_path / "m.safetensors"), f"{memory}/m.safetensors.index.json", "--format", "float32"]
    assert cli.main([*command, "--shard-size", "20000"]) == 0
    index = json.loads(get(memory, "m.safetensors.index.json"))
    assert names(memory) == {"m.safetensors.index.json", *index["weight_map"].values()}
    found = {name: load(get(memory, shard))[name] for name, shard in index["weight_map"].items()}
    assert all(torch.equal(found[name], weight) for name, weight in state.items())


def test_what_a_killed_upload_left_goes_with_the_next_job(memory: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file({"blocks.0.q.weight": torch.randn(64, 64)}, tmp_path / "in" / "m.safetensors")
    put(memory, ".scaled-fp8-0123.part", b"half")
    assert not run_batch([str(tmp_path / "in")], memory, WORK).sentence()
    assert names(memory) == {"m.safetensors", MANIFEST}


def test_another_model_at_a_url_is_left_alone(memory: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file({"blocks.0.q.weight": torch.randn(64, 64)}, tmp_path / "in" / "m.safetensors")
    put(memory, "m.safetensors", model(3.0))
    found = run_batch([str(tmp_path / "in")], memory, WORK)
    assert "another model is there" in found.said("refused")["m.safetensors"]
    assert get(memory, "m.safetensors") == model(3.0)
    with pytest.raises(Refused, match="another name"):
        from scaled_fp8.quant.conversion.batch import run_one

        run_one(f"{memory}/m.safetensors", f"{memory}/m.safetensors", WORK)


@pytest.mark.parametrize("url", ["nothing://x/m.safetensors", "memory://none/m.safetensors", "memory://none/*.st"])
def test_a_url_that_leads_nowhere_is_one_sentence(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", url, str(tmp_path / "m.safetensors"), "--format", "float32"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and url in err and os.listdir(tmp_path) == []


def test_a_file_that_arrives_short_is_not_there(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    save_file({"blocks.0.q.weight": torch.randn(64, 64)}, tmp_path / "m.safetensors")
    monkeypatch.setattr(MemoryFileSystem, "put_file", lambda self, here, there: self.pipe_file(there, b"half"))
    command = ["convert", str(tmp_path / "m.safetensors"), f"{memory}/m.safetensors", "--format", "float32"]
    assert cli.main(command) == 2
    system = fsspec.filesystem("memory")
    assert not list(system.find("models"))
