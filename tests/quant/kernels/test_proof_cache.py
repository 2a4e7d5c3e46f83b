"""What probes found is kept on disk: read the second time, made anew whenever it may no longer hold."""

from __future__ import annotations

import json

import pytest
import torch
from scaled_fp8.quant.kernels import proof_cache
from scaled_fp8.quant.kernels.proof_cache import Proof, cache_file, remembered

CPU = torch.device("cpu")
WORKS = Proof(0.001, None)


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """A folder of its own for the proofs of this test."""
    monkeypatch.setenv("SCALED_FP8_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "scaled-fp8" / "probes.json"


class Probe:
    """Counts how often it is asked."""

    def __init__(self, proof: Proof = WORKS, lasting: bool = True) -> None:
        self.answer, self.asked = (proof, lasting), 0

    def __call__(self) -> tuple[Proof, bool]:
        self.asked += 1
        return self.answer


@pytest.mark.parametrize("proof", (WORKS, Proof(None, "raises"), Proof(0.3, "is wrong"), Proof(0.0, None)), ids=str)
def test_the_second_start_costs_nothing(cached, proof):
    probe = Probe(proof)
    assert [remembered("a", CPU, probe) for _ in range(3)] == [proof] * 3
    assert probe.asked == 1
    assert not [path for path in cached.parent.iterdir() if path != cached]


def test_questions_are_kept_apart(cached):
    remembered("a", CPU, Probe())
    assert remembered("b", CPU, Probe(Proof(None, "raises"))) == Proof(None, "raises")
    assert remembered("a", CPU, Probe(Proof(1.0, "is wrong"))) == WORKS


@pytest.mark.parametrize(
    "change",
    (
        ("device_name", lambda device: "another GPU"),
        ("driver", lambda device: "driver 1.2.3"),
        ("installed", lambda name: "9.9"),
        ("code", lambda: "other"),
    ),
    ids=lambda change: change[0],
)
def test_another_machine_or_version_probes_again(cached, monkeypatch, change):
    remembered("a", CPU, Probe())
    monkeypatch.setattr(proof_cache, *change)
    proof_cache.environment.cache_clear()
    probe = Probe()
    remembered("a", CPU, probe)
    proof_cache.environment.cache_clear()
    assert probe.asked == 1
    # a device's earlier versions are not kept, other devices are
    assert len(json.loads(cached.read_text())) == (2 if change[0] == "device_name" else 1)


CORRUPT = (
    "",
    "{",
    "[]",
    "7",
    '{"a": 1}',
    '{"a": {"b": {"error": "x", "reason": null}}}',
    '{"a": {"b": {}}}',
    "\x00\xff",
)


@pytest.mark.parametrize("content", CORRUPT)
def test_a_corrupt_file_is_probed_again_and_mended(cached, content):
    cached.parent.mkdir()
    cached.write_text(content)
    probe = Probe()
    assert remembered("a", CPU, probe) == WORKS
    assert remembered("a", CPU, probe) == WORKS
    assert probe.asked == 1


def test_a_proof_of_nothing_is_corrupt(cached):
    remembered("a", CPU, Probe())
    stored = json.loads(cached.read_text())
    stored[proof_cache.environment(CPU)]["a"] = {"error": None, "reason": None}
    cached.write_text(json.dumps(stored))
    probe = Probe()
    remembered("a", CPU, probe)
    assert probe.asked == 1


def test_what_may_pass_is_not_kept(cached):
    probe = Probe(Proof(None, "raises: out of memory"), lasting=False)
    for _ in range(2):
        remembered("a", CPU, probe)
    assert probe.asked == 2
    assert not cached.exists()


def test_a_folder_that_cannot_be_written_is_no_matter(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCALED_FP8_CACHE", str(tmp_path / "file"))
    assert remembered("a", CPU, Probe()) == WORKS


@pytest.mark.parametrize("word", ("off", "OFF", "0", "no"))
def test_off(monkeypatch, word):
    monkeypatch.setenv("SCALED_FP8_CACHE", word)
    assert cache_file() is None


def test_where_it_is(monkeypatch, tmp_path):
    for name in ("SCALED_FP8_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    assert cache_file().parts[-3:] == (".cache", "scaled-fp8", "probes.json")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_file() == tmp_path / "local" / "scaled-fp8" / "probes.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_file() == tmp_path / "xdg" / "scaled-fp8" / "probes.json"
