"""The benchmarks run, say why a peer is missing, and make one table of what they found; times are not asserted."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scaled_fp8.quant.kernels.diagnosis import Finding

from benchmarks import __main__ as main
from benchmarks import comfyui, inside, limits, machine, models, results, scale, shapes, table, timing
from benchmarks.parts import doctor, step, tests
from benchmarks.parts import linears as linears_module
from benchmarks.parts.linears import Bench, blocks, decibels, linears
from benchmarks.peers import BASELINE, LIMIT, OURS, OURS_AUTO, OURS_UPCAST, PEERS

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
STORED = ROOT / "tests" / "data" / "benchmarks.json"


@pytest.fixture(scope="module")
def stored() -> results.Results:
    """A machine of two parts, written by hand: OURS takes 0.6 and 0.4 of bf16's time, and 1.5 with one token."""
    return results.read(STORED)


##### Peers


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_builds_or_says_why(peer):
    torch.manual_seed(0)
    weight, x = (torch.randn(64, 128) * 0.1).bfloat16(), torch.randn(16, 128).bfloat16()
    built, reason = peer.built(weight, x)
    assert (built is None) == bool(reason)
    if built is not None:
        truth = F.linear(x.float(), weight.float())
        # the activations as they are, or of unit size, which even a scale of one suits
        assert decibels(built.call(x), truth) > 25


def test_a_peer_that_raises_answers_with_what_it_raised():
    def build(weight, x):
        raise ValueError("no such thing\nsecond line")

    peer = replace(PEERS[0], build=build)
    assert peer.built(torch.zeros(2, 2), torch.zeros(1, 2)) == (None, "ValueError: no such thing")


def test_peers_have_names_of_their_own_and_the_baseline_is_the_first():
    names = [peer.name for peer in PEERS]
    assert len(set(names)) == len(names)
    assert names[0] == BASELINE


##### What is run


@pytest.mark.parametrize("part", [linears, blocks], ids=["linears", "blocks"])
def test_a_part_has_a_row_or_a_reason_for_every_peer(part):
    bench = Bench(CPU, 0.0, time.monotonic() + 60)
    *_, found = part(shapes.TINY, (16,) if part is linears else 16, bench)
    peers = {row.peer for row in found.rows}
    assert {BASELINE, OURS_AUTO, OURS_UPCAST} <= peers
    if part is linears:
        # peers that are timed with many tokens only are neither
        assert {peer.name for peer in PEERS if peer.only is None} <= peers | set(found.missing)
    for row in found.rows:
        assert 0 < row.low <= row.median <= row.high
        assert row.db > 25
        assert bool(row.note) == row.ours


def test_nothing_is_dropped_in_silence_when_time_is_up():
    bench = Bench(CPU, 0.0, time.monotonic() - 1)
    (found,) = linears(shapes.TINY, (1,), bench)
    assert found.rows == ()
    assert found.notes == (f"{2 * len(PEERS)} figures were not measured: there was no time left",)


def test_what_there_is_no_time_for_ends_in_the_middle_of_a_shape(monkeypatch):
    """Two peers' figures are kept, the others are told to be missing."""
    left = iter([False] * 3 + [True] * 100)
    monkeypatch.setattr(Bench, "over", property(lambda bench: next(left)))
    *_, found = linears(shapes.TINY[:1], (1,), Bench(CPU, 0.0, 0.0))
    assert 0 < len({row.peer for row in found.rows} | set(found.missing)) <= 2
    assert found.notes == (f"{2 * len(PEERS) - 2} figures were not measured: there was no time left",)


def test_compiled_peers_are_timed_with_one_number_of_tokens():
    compiled = [peer for peer in PEERS if "compiled" in peer.name]
    assert {peer.only for peer in compiled} == {shapes.LARGE}
    peer = replace(compiled[0], needs=lambda device: None)
    assert peer.built(torch.zeros(2, 2), torch.zeros(16, 2))[1].startswith("is timed with 4096 tokens alone")


def test_what_matters_is_measured_first():
    assert list(main.parts(CPU, quick=False))[:4] == ["doctor", "blocks", "linears", "step"]
    assert list(main.parts(torch.device("cuda"), quick=False))[:5] == ["doctor", "tests", "blocks", "linears", "step"]
    assert shapes.TOKENS[:2] == (4096, 1)


def test_each_shape_has_many_tokens_and_one_before_any_has_others(monkeypatch):
    log = []
    monkeypatch.setattr(linears_module, "one_shape", lambda weight, x, bench: log.append((len(x), tuple(weight.shape))))
    list(linears(shapes.TINY, (32, 1, 16), Bench(CPU, 0.0, time.monotonic() + 60)))
    one, other = shapes.distinct(shapes.TINY)
    assert log == [(32, one), (1, one), (32, other), (1, other), (16, one), (16, other)]


def test_a_gpus_launches_are_not_hidden_behind_the_flushing_of_its_cache(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            self.record = lambda: log.append("record")
            self.synchronize = lambda: log.append("end")
            self.elapsed_time = lambda other: 1500.0

    class Cache:
        zero_ = staticmethod(lambda: log.append("flush"))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("idle"))
    monkeypatch.setattr(timing, "flushed", lambda device: Cache)
    assert timing.by_events(lambda: log.append("run"), CPU) == 1.5
    assert log == ["flush", "idle", "record", "run", "record", "end"]


def test_a_way_that_fails_costs_no_other_its_figures(monkeypatch, tmp_path):
    answer = {"times": [0.1, 0.2, 0.3], "memory": None, "ran": "", "dynamic": True}

    def one_way(base, way, asked):
        if way.name == "bf16":
            raise RuntimeError("inside inside ComfyUI: took more than 150 s")
        return answer, torch.ones(2)

    monkeypatch.setattr(step, "one_way", one_way)
    answers, missing = step.every_way(tmp_path, {}, time.monotonic() + 60)
    assert len(answers) == len(step.WAYS) - 1
    assert missing == {"bf16": "inside inside ComfyUI: took more than 150 s"}
    assert step.every_way(tmp_path, {}, time.monotonic() - 1) == (
        {}, {way.name: "there was no time left" for way in step.WAYS}
    )  # fmt: skip
    assert step.notes_of("cuda", answers)[-1].startswith("dynamic VRAM: ComfyUI core, --fast")


def test_the_doctor_tells_what_works_and_what_does_not():
    fine = Finding("cpu", "bfloat16", "upcast", True, 0.002, 1.5, None)
    lost = replace(fine, kernel="one", works=False, error=None, time=None, reason="is for GPUs")
    part = doctor.told((fine, lost, replace(lost, kernel="two")))
    assert part.notes == ("upcast (cpu, bfloat16): error 0.002, 1.50 of a bfloat16 Linear's time",)
    assert part.missing == {"one (cpu, bfloat16), two (cpu, bfloat16)": "is for GPUs"}
    assert "- upcast (cpu, bfloat16): error 0.002" in "\n".join(table.one_part(part))


@pytest.mark.parametrize(
    "before", ((), (results.Part("load", "Loading", "c", "", notes=("one",)),)), ids=("none", "some")
)
def test_a_part_that_fails_is_told_with_what_it_had(before):
    kept = []

    def make():
        yield from before
        raise RuntimeError("no such device\nmore")

    main.measured("load", make, kept.append)
    assert kept[-1].missing == {"failed": "no such device"}
    assert kept[-1].notes == (before[0].notes if before else ())
    assert "- failed: no such device." in "\n".join(table.one_part(kept[-1]))


def test_the_doctor_keeps_what_it_found_when_time_is_up():
    (part,) = doctor.doctor(longest=-1.0)
    assert part.notes[-1] == "there was no time for the rest after -1 s"
    assert len(part.notes) + len(part.missing) >= 2


PYTEST = """\
tests/gpu/test_kernels.py::test_right[scaled_mm per-row-(3072, 3072)] PASSED    [ 33%]
tests/gpu/test_kernels.py::test_right[upcast fused-(3000, 1544)] FAILED         [ 66%]
tests/gpu/test_lora.py::test_waits[nearest] SKIPPED (one GPU or none)           [100%]
"""
ENDED = """\
FAILED tests/gpu/test_kernels.py::test_right[upcast fused-(3000, 1544)] - assert 0.5 <= 0.015
=== 1 failed, 1 passed, 1 skipped in 3.21s ===
"""


@pytest.mark.parametrize("ended", (True, False))
def test_what_a_gpu_shows_is_told_however_far_it_came(ended):
    part = tests.told(PYTEST + ENDED * ended, "late\nthere was no time for the rest after 150 s")
    name = "test_kernels.py::test_right[upcast fused-(3000, 1544)]"
    assert part.missing == {name: "assert 0.5 <= 0.015" if ended else "failed"}
    late = ("there was no time for the rest after 150 s",)
    assert part.notes == ("1 passed, 1 failed, 1 skipped", *(() if ended else late))


def test_tests_of_a_gpu_are_run_by_pytest_and_stopped_in_time():
    first, *_, part = tests.gpu_tests(longest=600.0)
    assert "skipped" in part.notes[0] or "passed" in part.notes[0]
    assert first.notes[0].startswith("1 "), "each test is told as it ends"
    (part,) = tests.gpu_tests(longest=0.5)
    assert part.notes == ("no test was run", "there was no time for the rest after 0 s")


def test_a_warning_of_each_call_is_shown_once(caplog):
    once, record = main.Once(), logging.LogRecord("kitchen", 30, "", 7, "no %s\nlong", ("operator",), None)
    assert once.filter(record) and record.getMessage() == "no operator"
    assert not once.filter(record)


def test_shapes_are_timed_once():
    found = shapes.distinct(shapes.MODELS)
    assert found[4096, 4096] == ["LTX-2.3 22B proj", "FLUX.2 klein 9B proj"]
    assert sum(map(len, found.values())) == sum(len(model.linears) for model in shapes.MODELS)


def test_a_run_that_is_cut_short_leaves_what_it_found(stored, tmp_path):
    first, second = stored.parts[:2]
    path = tmp_path / "machine.json"

    half = replace(second, rows=second.rows[:1])

    def interrupted():
        yield half
        raise KeyboardInterrupt

    def save(found):
        main.merged(stored.machine, found, [first.name, second.name], path).save(path)

    with pytest.raises(KeyboardInterrupt):
        main.run({first.name: lambda: iter([first]), second.name: interrupted}, [first.name, second.name], save)
    assert results.read(path).parts == (first, half)


def test_a_run_that_is_killed_leaves_figures_and_tables(tmp_path):
    """The whole process group, in its second part, by a signal that nobody can catch."""
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "linears,doctor", "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout.readline().startswith("linears: ")
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (kept,), (document,) = tmp_path.glob("*.json"), tmp_path.glob("*.md")
    part = next(part for part in results.read(kept).parts if part.name == "linears")
    assert part.rows and part.title in document.read_text()


def test_what_is_saved_is_whole_or_as_before(stored, tmp_path, monkeypatch):
    path = stored.save(tmp_path / "machine.json")

    def full(self, text):
        self.touch()
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        replace(stored, parts=()).save(path)
    assert results.read(path) == stored and list(tmp_path.iterdir()) == [path]


def test_spread_is_the_median_and_the_quartiles():
    assert results.spread([5.0, 1.0, 3.0, 2.0, 4.0]) == results.Timing(3.0, 2.0, 4.0, 5)
    assert results.spread([2.0]) == results.Timing(2.0, 2.0, 2.0, 1)


def test_the_machine_is_named_without_its_host():
    facts = machine.machine()
    assert {"name", "clocks", "versions", "threads", "memory_gib"} <= set(facts)
    assert machine.slug("AMD EPYC, 2 cores") == "amd-epyc-2-cores"


def test_flux2_files_are_of_one_model(tmp_path):
    from scaled_fp8 import quant

    model = models.Flux2(256, 1, 1, 64)
    wide = quant.open_source(models.write_bf16(tmp_path / "bf16.safetensors", model))
    found = quant.read_checkpoint(models.write_fp8(tmp_path / "fp8.safetensors", model))
    assert len(found) == 10
    for name in found:
        exact = wide.tensor(f"{name}.weight").float()
        assert decibels(found[name].dequantize(torch.float32), exact) > 30
    assert {name: wide[name].shape for name in wide} == model.shapes()


@pytest.mark.skipif(comfyui.absent() is not None, reason="no ComfyUI")
def test_work_inside_comfyui_that_fails_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="inside ComfyUI: KeyError: 'nonsense'"):
        comfyui.inside(tmp_path, "nonsense")


LOADED = """
import sys
sys.modules.update(kornia=None, server=None)
from benchmarks import inside
found = inside.start({"base": sys.argv[1], "device": "cpu"})
print(*(name for name in ("LoadFP8Checkpoint", "QuantizeModel", "CompareModels") if name in found))
"""


@pytest.mark.skipif(comfyui.absent() is not None, reason="no ComfyUI")
def test_the_pack_loads_where_kornia_and_the_server_cannot_be_imported(tmp_path):
    """As on a machine without a package index, where some of ComfyUI's requirements are missing."""
    base = comfyui.make_base(tmp_path / "base")
    command = [str(comfyui.python()), "-c", LOADED, str(base)]
    done = subprocess.run(command, cwd=base, env=comfyui.environment(ROOT), capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["LoadFP8Checkpoint", "QuantizeModel", "CompareModels"], done.stderr[-2000:]


def test_why_the_pack_is_not_there_is_what_was_warned_of_last():
    with inside.warned() as lines:
        logging.getLogger().warning("one")
        logging.getLogger("comfy").warning("No module named %r\nmore", "kornia")
    logging.getLogger().warning("later")
    assert lines == ["one", "No module named 'kornia'"]


##### The table


def test_results_survive_the_disk(stored, tmp_path):
    assert results.read(stored.save(tmp_path / "a" / "b.json")) == stored


def test_figures_are_geometric_means_over_shapes(stored):
    found = {figure.what: figure.value for figure in limits.figures(stored)}
    where = "from 4096 tokens on, geometric mean"
    assert found[f"{OURS} / bf16, {where}"] == pytest.approx((0.6 * 0.4) ** 0.5)
    assert found[f"{OURS} / bf16, from 4096 tokens on, worst shape"] == pytest.approx(0.6)
    assert found[f"{OURS} / {LIMIT}, {where}"] == pytest.approx((1.2 * 0.8) ** 0.5)
    assert found["LoadFP8Checkpoint / UNETLoader, warm"] == pytest.approx(0.9)


def test_the_table_says_where_this_pack_is_slower_and_why(stored):
    text = table.markdown([stored])
    (told,) = [line for line in text.splitlines() if "is slower than" in line]
    assert told.startswith(f"- {OURS} is slower than {BASELINE} (1 token 1.50 times): ")
    assert told.endswith("scaled_mm per-row: proven here.")
    assert "- torchao per-row: torchao is not installed." in text
    assert "| Scaled FP8, dynamic per token | 1.50, 28.0 dB | 0.49, 28.0 dB |" in text
    assert "## A machine" in text and "`python -m benchmarks --only load`" in text


def test_running_twice_changes_figures_not_structure(stored, tmp_path):
    document = tmp_path / "benchmarks.md"
    table.write_document([stored], document)
    first = document.read_text()
    slower_ = [replace(part, rows=tuple(replace(r, median=r.median * 1.1) for r in part.rows)) for part in stored.parts]
    table.write_document([replace(stored, parts=tuple(slower_))], document)
    second = document.read_text()
    assert first != second
    assert without_numbers(first) == without_numbers(second)
    assert second.startswith("# Speed\n") and second.count("# A machine") == 1


def without_numbers(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?( (s|ms|µs)\b)?", "#", text)


def test_the_document_is_of_the_stored_results():
    """docs/benchmarks.md is what the JSON files under benchmarks/results make."""
    assert table.TARGET.read_text() == table.markdown(results.every()), "run: python -m benchmarks"


def test_conversion_is_timed_by_a_process_without_torch():
    """Whose memory the peak of its children would start from."""
    code = "import sys, benchmarks.parts.convert; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_work_inside_comfyui_has_a_name_each():
    assert set(inside.WORK) == {"load", "step"}


def test_hours_of_a_large_job_fall_with_workers_until_the_storage_is_full():
    one = scale.One(read=2.0, written=0.5, held=10**9)
    measured = scale.Measured(one, {1: 100e6, 2: 180e6}, 10**8)
    job, (files, size) = next(iter(scale.JOBS.items()))
    alone = files * size / 100e6 / 3600
    assert scale.hours(measured, job, 1, storage=1e6) == pytest.approx(alone)
    # 1,000 files are 125 rounds of 8
    assert scale.hours(measured, job, 8, storage=1e6) == pytest.approx(alone / 8)
    full = files * size * 2.5 / 1e9 / 3600
    assert scale.hours(measured, job, 10**4, storage=1) == pytest.approx(full)
    assert measured.gain == pytest.approx(1.8)


def test_tables_of_scale_take_the_place_of_those_before():
    page = scale.DOCUMENT.read_text()
    assert all(page.count(mark) == 1 for mark in scale.MARKS)
    again = scale.written(scale.written(page, "| a |"), "| b |")
    assert again == scale.written(page, "| b |") and "| a |" not in again
    before, after = page.split(scale.MARKS[0])[0], page.split(scale.MARKS[1])[1]
    assert again.startswith(before) and again.endswith(after)
