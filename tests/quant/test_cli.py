"""The command line: exit codes, one sentence on stderr, one JSON object on stdout, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import cli
from scaled_fp8.quant.cli.converting import EFFORTS, FOREIGN, NATIVE
from scaled_fp8.quant.cli.output import DEBUG
from torch import Tensor
from zoo import ZOO

MODULE = [sys.executable, "-m", "scaled_fp8.quant.cli"]


@pytest.fixture
def ltx(tmp_path: Path, tiny: dict[str, Tensor]) -> Path:
    return ZOO["ltx"].write(tiny, tmp_path / "m.safetensors")


def one_sentence(text: str) -> bool:
    return text.endswith("\n") and text.count("\n") == 1 and "Traceback" not in text


##### What the commands do


def test_inspect_prints_the_verdict(ltx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(ltx), "--json"]) == 0
    out, err = capsys.readouterr()
    verdict = json.loads(out)
    assert verdict["accepted"] and "LTX" in verdict["dialect"] and not err
    assert {"reasons", "totals"} < verdict.keys()
    assert {"name", "shape", "format", "granularity", "scale_shape", "decision"} <= verdict["layers"][0].keys()
    assert cli.main(["inspect", str(ltx), "--check", "all"]) == 0
    table = capsys.readouterr().out
    assert all(layer["name"] in table for layer in verdict["layers"])


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["table", "json"])
def test_inspect_of_a_doubtful_file_prints_it_and_exits_2(
    tmp_path: Path, as_json: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"a.weight": torch.ones(8, 32).to(torch.float8_e4m3fn), "a.weight_scale": torch.tensor(float("nan"))}
    save_file(state, tmp_path / "m.safetensors")
    assert cli.main(["inspect", str(tmp_path / "m.safetensors"), *as_json]) == 2
    out, err = capsys.readouterr()
    assert one_sentence(err) and "a" in out
    if as_json:
        verdict = json.loads(out)
        assert verdict["accepted"] is False and verdict["reasons"][0] in err


@pytest.mark.parametrize("format", ["float32", "float16", "bfloat16"])
def test_convert_writes_and_compare_measures(ltx: Path, format: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = ltx.parent / "out.safetensors"
    assert cli.main(["convert", str(ltx), str(out), "--format", format]) == 0
    assert any(tensor.dtype == getattr(torch, format) for tensor in load_file(out).values())
    assert "read back" in capsys.readouterr().out
    assert cli.main(["compare", str(ltx), str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["overall"]["relative_error"] < {"float32": 1e-9, "float16": 1e-3, "bfloat16": 1e-2}[format]
    assert cli.main(["compare", str(ltx), str(out)]) == 0
    table, err = capsys.readouterr()
    assert "overall" in table and not err


def test_convert_quantizes_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"blocks.0.q.weight": torch.randn(64, 64)}, tmp_path / "m.safetensors")
    out = tmp_path / "out.safetensors"
    assert cli.main(["convert", str(tmp_path / "m.safetensors"), str(out), "--format", "float8_e4m3fn", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"][0]["after"] == "float8_e4m3fn per-tensor" and report["files"] == [str(out)]
    assert load_file(out)["blocks.0.q.weight"].dtype == torch.float8_e4m3fn


def test_convert_of_a_folder_and_of_a_glob(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        save_file({"blocks.0.q.weight": torch.randn(64, 64)}, tmp_path / "in" / f"{name}.safetensors")
    (tmp_path / "in" / "c.safetensors").write_bytes(b"rubbish")
    command = ["--format", "int8"]
    assert cli.main(["convert", str(tmp_path / "in"), str(tmp_path / "out"), *command]) == 2
    table, err = capsys.readouterr()
    assert one_sentence(err) and "Of 3 files 1 refused" in err and "c.safetensors" in table
    assert table.count("converted") == 2
    assert sorted(os.listdir(tmp_path / "out")) == ["a.safetensors", "b.safetensors", "scaled-fp8-manifest.json"]
    assert cli.main(["convert", str(tmp_path / "in" / "[ab]*"), str(tmp_path / "more"), *command, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["files"]) == {"a.safetensors", "b.safetensors"}
    assert cli.main(["convert", str(tmp_path / "in" / "x*"), str(tmp_path / "none"), *command]) == 2
    assert not (tmp_path / "none").exists()


def test_help_names_every_format_and_what_core_does_not_load(capsys: pytest.CaptureFixture[str]) -> None:
    from scaled_fp8.quant import FORMATS
    from scaled_fp8.quant.weights.native import loads_in_core

    native = {name for name, format in FORMATS.items() if any(loads_in_core(format, g) for g in format.granularities)}
    assert native == set(NATIVE) and FORMATS.keys() - native == set(FOREIGN)
    with pytest.raises(SystemExit):
        cli.main(["convert", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in FORMATS)


def test_efforts_of_the_command_line_are_those_of_the_engine():
    from scaled_fp8.quant.weights import job

    assert tuple(job.EFFORTS) == EFFORTS


def test_doctor_tells_of_every_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    kernels = json.loads(capsys.readouterr().out)["kernels"]
    assert any(kernel["works"] and kernel["device"] == "cpu" for kernel in kernels)
    assert cli.main(["doctor"]) == 0
    assert kernels[0]["kernel"] in capsys.readouterr().out


##### Refusals and failures

REFUSED = {
    "no command": [],
    "unknown command": ["frobnicate"],
    "no file": ["inspect"],
    "missing file": ["inspect", "none.safetensors"],
    "unknown option": ["inspect", "x", "--what"],
    "unknown check": ["inspect", "x", "--check", "some"],
    "no format": ["convert", "x", "y"],
    "unknown format": ["convert", "x", "y", "--format", "int3"],
    "unknown granularity": ["convert", "x", "y", "--format", "int8", "--granularity", "none"],
    "no threads": ["convert", "x", "y", "--format", "int8", "--threads", "0"],
    "no shard size": ["convert", "x", "y", "--format", "int8", "--shard-size", "large"],
    "missing settings": ["convert", "x", "y", "--config", "none.toml"],
    "no file for a folder": ["convert", "x*", "y/", "--format", "int8"],
    "no second file": ["compare", "x"],
    "device": ["inspect", "/dev/zero"],
    "name with a line break": ["inspect", "a\nb\x1b[31m.safetensors"],
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
def test_refusals_are_one_sentence_and_exit_2(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out and one_sentence(err) and "\x1b" not in err
    assert os.listdir(tmp_path) == []


def test_inspect_json_of_an_unreadable_file_is_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"rubbish")
    assert cli.main(["inspect", str(tmp_path / "m.safetensors"), "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["accepted"] is False and one_sentence(err)


def test_names_that_command_a_terminal_are_printed_harmlessly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"\x1b[31m\n.weight": torch.ones(8, 32).to(torch.float8_e4m3fn)}
    save_file(state | {"\x1b[31m\n.weight_scale": torch.tensor(0.0)}, tmp_path / "m.safetensors")
    cli.main(["inspect", str(tmp_path / "m.safetensors")])
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and r"\x1b" in out and one_sentence(err)


@pytest.mark.parametrize(("problem", "words"), [(ZeroDivisionError("oh"), "oh"), (KeyboardInterrupt(), "Interrupted")])
def test_anything_else_exits_1_in_one_sentence(
    problem: BaseException, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise problem

    monkeypatch.setattr("scaled_fp8.quant.kernels.diagnosis.doctor", fail)
    assert cli.main(["doctor"]) == 1
    out, err = capsys.readouterr()
    assert not out and one_sentence(err) and words in err
    monkeypatch.setenv(DEBUG, "1")
    cli.main(["doctor"])
    assert ("Traceback" in capsys.readouterr().err) == isinstance(problem, Exception)


##### As a process


def test_help_does_not_import_torch() -> None:
    code = "import sys\nfrom scaled_fp8.quant import cli\n"
    code += "try: cli.main(['--help'])\nexcept SystemExit: sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert result.returncode == 0 and "inspect" in result.stdout, result.stderr


def test_a_reader_that_leaves_is_no_failure(ltx: Path) -> None:
    process = subprocess.Popen([*MODULE, "inspect", ltx], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/")
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0


# a command that gets a signal in the middle of its work
STOPPED = """
import os, signal, sys
from scaled_fp8.quant import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
class Bar:
    count = 0
    def __enter__(self):
        return self
    def __exit__(self, *problem):
        pass
    def update(self, n):
        Bar.count += 1
        if Bar.count == 3:
            os.kill(os.getpid(), int(sys.argv[1]))
cli.converting.bytes_bar = lambda total: Bar()
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_stopped_conversion_leaves_nothing(ltx: Path, number: signal.Signals) -> None:
    command = [
        sys.executable,
        "-c",
        STOPPED,
        str(int(number)),
        "convert",
        ltx,
        ltx.parent / "out.safetensors",
        "--format",
        "float32",
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert os.listdir(ltx.parent) == [ltx.name]
    assert result.returncode == (-number if number == signal.SIGKILL else 1), result.stderr
    assert number == signal.SIGKILL or (one_sentence(result.stderr) and "Interrupted" in result.stderr)


##### Reports and cards


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A file, and one that convert made of it."""
    save_file({f"blocks.{i}.q.weight": torch.randn(64, 64) * 0.02 for i in range(2)}, tmp_path / "a.safetensors")
    arguments = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"), "--format", "float8_e4m3fn"]
    assert cli.main(["convert", *arguments]) == 0
    return tmp_path / "a.safetensors", tmp_path / "b.safetensors"


def test_report_writes_a_page(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    page = pair[0].parent / "r.html"
    assert cli.main(["report", *map(str, pair), "-o", str(page)]) == 0
    out, err = capsys.readouterr()
    assert f"{page}: written." in out and "SQNR of weights" in out and not err
    html = page.read_text(encoding="utf-8")
    assert "2 float8_e4m3fn per-tensor" in html and str(page.parent) not in html


def test_report_as_json_writes_no_page(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scaled_fp8.quant import Quality, compare_weights

    monkeypatch.chdir(pair[0].parent)
    capsys.readouterr()
    assert cli.main(["report", *map(str, pair), "--json"]) == 0
    assert Quality.from_json(json.loads(capsys.readouterr().out)) == compare_weights(*pair)
    assert not list(pair[0].parent.glob("*.html"))
    assert cli.main(["report", *map(str, pair)]) == 0
    assert [path.name for path in pair[0].parent.glob("*.html")] == ["scaled-fp8-report.html"]


NO_REPORT = {
    "a model as the page": (["a.safetensors", "b.safetensors", "-o", "a.safetensors"], "ends in .html"),
    "no folder": (["a.safetensors", "b.safetensors", "-o", "none/r.html"], "does not exist"),
    "a folder as the page": (["a.safetensors", "b.safetensors", "-o", "folder.html"], "not a regular file"),
    "no second file": (["a.safetensors", "c.safetensors", "-o", "r.html"], "c.safetensors"),
    "another model": (["a.safetensors", "other.safetensors", "-o", "r.html"], "shares no layer with a.safetensors"),
    "another shape": (["a.safetensors", "wide.safetensors", "-o", "r.html"], "blocks.0.q"),
}


@pytest.mark.parametrize(("arguments", "words"), NO_REPORT.values(), ids=NO_REPORT)
def test_what_is_no_report_is_refused_and_nothing_written(
    pair: tuple[Path, Path],
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = pair[0].parent
    monkeypatch.chdir(folder)
    (folder / "folder.html").mkdir()
    save_file({"x.weight": torch.ones(2, 2)}, folder / "other.safetensors")
    save_file({"blocks.0.q.weight": torch.ones(64, 65)}, folder / "wide.safetensors")
    before = {path: path.is_dir() or path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    assert cli.main(["report", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and one_sentence(err) and words in err
    assert {path: path.is_dir() or path.read_bytes() for path in folder.iterdir()} == before


def test_inspect_tells_how_a_file_was_made(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for path in pair:
        capsys.readouterr()
        assert cli.main(["inspect", str(path), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["card"] is None and found[1]["card"]["source"] == "a.safetensors"
    assert found[1]["card"]["fingerprint"] == found[0]["fingerprint"] != found[1]["fingerprint"]
    assert cli.main(["inspect", str(pair[1])]) == 0
    assert "made of a.safetensors" in capsys.readouterr().out


def test_inspect_writes_a_model_card(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(["inspect", str(pair[1]), "--card"]) == 0
    printed = capsys.readouterr().out
    target = pair[0].parent / "README.md"
    assert cli.main(["inspect", str(pair[1]), "--card", "-o", str(target)]) == 0
    assert target.read_text(encoding="utf-8") == printed and printed.startswith("---\n")


@pytest.mark.parametrize("arguments", [["--card", "--json"], ["-o", "x.md"], ["--card", "-o", "b.safetensors"]])
def test_options_of_cards_that_do_not_go_together_are_refused(
    pair: tuple[Path, Path], arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pair[0].parent)
    before = pair[1].read_bytes()
    capsys.readouterr()
    assert cli.main(["inspect", "b.safetensors", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and one_sentence(err) and pair[1].read_bytes() == before


def test_a_stranger_s_card_is_printed_harmlessly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from scaled_fp8.quant.quality.card import Card

    evil = "\x1b[2J\u202e\n# x"
    header = Card(evil, evil, evil, evil, evil, {evil: 1}, {evil: (evil,)}, {evil: evil}, {evil: evil}).metadata({})
    save_file({"a.weight": torch.ones(4, 4)}, tmp_path / "m.safetensors", header)
    for arguments in ([], ["--json"], ["--card"]):
        assert cli.main(["inspect", str(tmp_path / "m.safetensors"), *arguments]) == 0
        out, err = capsys.readouterr()
        assert "\x1b" not in out and "\u202e" not in out and not err
