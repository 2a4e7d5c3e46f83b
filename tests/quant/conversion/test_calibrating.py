"""Conversions that know what layers are fed, and those that carry out a plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import FORMATS, Refused, cli, convert, read_checkpoint
from scaled_fp8.quant.calibration import planner, rounding
from scaled_fp8.quant.calibration.moments import moments_of
from scaled_fp8.quant.calibration.plan import read_plan, write_plan
from scaled_fp8.quant.calibration.store import Facts, Record, read_calibration, sample_of, save_calibration
from scaled_fp8.quant.conversion.request import Request
from scaled_fp8.quant.weights.encode import quantize
from torch import Tensor

LAYERS = ("blocks.0.mlp.0", "blocks.0.mlp.2", "blocks.1.mlp.0")
SHAPES = ((96, 128), (128, 96), (96, 128))


def inputs(seed: int, width: int) -> Tensor:
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, width)
    return torch.randn(600, width, generator=torch.Generator().manual_seed(seed)) @ mix.T


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.safetensors, its calibration, and one of another model with the same names."""
    folder = tmp_path_factory.mktemp("calibrating")
    for seed, model in enumerate(("model", "other")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            f"{name}.weight": torch.randn(shape, generator=generator).mul(0.05).bfloat16()
            for name, shape in zip(LAYERS, SHAPES, strict=True)
        }
        save_file(tensors | {"norm.weight": torch.ones(96)}, folder / f"{model}.safetensors")
        records = {
            name: Record(tuple(tensors[f"{name}.weight"].shape), sample_of(tensors[f"{name}.weight"]), moments_of(x))  # type: ignore[arg-type]
            for name, x in zip(LAYERS, (inputs(1, shape[1]) for shape in SHAPES), strict=True)
        }
        save_calibration(folder / f"{model}-calibration.safetensors", records, Facts(1, 1))
    return folder


def output_error(folder: Path, file: Path, layer: str) -> float:
    weight = load_file(folder / "model.safetensors")[f"{layer}.weight"].float()
    x = inputs(2, weight.shape[1])
    return float((x @ (read_checkpoint(file)[layer].dequantize() - weight).T).norm() / (x @ weight.T).norm())


@pytest.mark.parametrize("format", ["nvfp4", "int4", "int8", "float8_e4m3fn", "int4_convrot", "mxfp8"])
def test_output_error_falls_on_other_inputs(folder: Path, tmp_path: Path, format: str) -> None:
    known = read_calibration(folder / "model-calibration.safetensors")
    usable = LAYERS if not FORMATS[format].rotates else (LAYERS[0],)
    for name, request in (("plain", Request(format)), ("fed", Request(format, calibration=known))):
        convert(folder / "model.safetensors", tmp_path / f"{name}.safetensors", request)
    for layer in usable:
        plain, fed = (output_error(folder, tmp_path / f"{name}.safetensors", layer) for name in ("plain", "fed"))
        assert fed <= plain * (1.02 if format == "mxfp8" else 0.85), layer


def test_fp8_has_the_scales_of_its_activations(folder: Path, tmp_path: Path) -> None:
    known = read_calibration(folder / "model-calibration.safetensors")
    convert(folder / "model.safetensors", tmp_path / "a.safetensors", Request("float8_e4m3fn", calibration=known))
    scale = load_file(tmp_path / "a.safetensors")["blocks.0.mlp.0.input_scale"]
    assert scale == inputs(1, 128).abs().amax() / 448


def test_a_calibration_of_another_model_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    known = read_calibration(folder / "other-calibration.safetensors")
    with pytest.raises(Refused, match="had other weights"):
        convert(folder / "model.safetensors", tmp_path / "a.safetensors", Request("nvfp4", calibration=known))
    assert not [*tmp_path.iterdir()]


def test_effort_is_for_formats_that_gain(folder: Path, tmp_path: Path) -> None:
    files = {}
    for effort in ("best", "fast"):
        for format in ("nvfp4", "int8"):
            path = tmp_path / f"{format}-{effort}.safetensors"
            convert(folder / "model.safetensors", path, Request(format, effort=effort))
            weight = load_file(folder / "model.safetensors")["blocks.0.mlp.0.weight"].float()
            files[format, effort] = float((read_checkpoint(path)["blocks.0.mlp.0"].dequantize() - weight).norm())
    assert files["nvfp4", "best"] < 0.97 * files["nvfp4", "fast"]
    assert files["int8", "best"] == files["int8", "fast"]


def test_convrot_without_data_is_what_its_weight_alone_gives(folder: Path, tmp_path: Path) -> None:
    weight = load_file(folder / "model.safetensors")["blocks.0.mlp.0.weight"]
    format = FORMATS["int4_convrot"]
    found = {}
    for effort in ("best", "fast"):
        path = tmp_path / f"{effort}.safetensors"
        convert(folder / "model.safetensors", path, Request("int4_convrot", effort=effort))
        found[effort] = read_checkpoint(path)["blocks.0.mlp.0"].dequantize()
    alone, _, _ = rounding.rounded(weight, format, format.granularities[0], None, "a")
    assert torch.equal(found["best"], alone.dequantize())
    assert torch.equal(found["fast"], quantize(weight, format).dequantize())


##### Plans


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def plan(folder: Path, tmp_path: Path) -> Path:
    known = folder / "model-calibration.safetensors"
    assert not run(
        "plan", folder / "model.safetensors", "--budget", "7 bits", "--calibration", known, "-o", tmp_path / "plan.json"
    )
    return tmp_path / "plan.json"


def test_a_plan_is_carried_out_as_it_says(folder: Path, plan: Path, tmp_path: Path, capsys) -> None:
    assert not run("convert", folder / "model.safetensors", tmp_path / "out.safetensors", "--plan", plan)
    ckpt, said = read_checkpoint(tmp_path / "out.safetensors"), read_plan(plan)
    for row in said.rows:
        if row.format == "keep":
            assert row.layer not in ckpt
            continue
        assert ckpt.spec(row.layer).format.name == row.format
        stored = [i.nbytes for n, i in ckpt.source.items() if n.startswith(f"{row.layer}.") and "comfy_quant" not in n]
        assert sum(stored) - 4 * (row.format == "float8_e4m3fn") == row.bytes
    assert "7 bits" in capsys.readouterr().out


def test_an_edited_plan_is_carried_out(folder: Path, plan: Path, tmp_path: Path) -> None:
    said = read_plan(plan)
    rows = (replace(said.rows[0], format="int8", granularity="per-row"), *said.rows[1:])
    write_plan(plan, replace(said, rows=rows))
    assert not run("convert", folder / "model.safetensors", tmp_path / "out.safetensors", "--plan", plan)
    assert read_checkpoint(tmp_path / "out.safetensors").spec(LAYERS[0]).format.name == "int8"


def test_a_plan_of_another_model_is_refused(folder: Path, plan: Path, tmp_path: Path, capsys) -> None:
    save_file({"blocks.9.q.weight": torch.randn(64, 64)}, tmp_path / "x.safetensors")
    assert run("convert", tmp_path / "x.safetensors", tmp_path / "out.safetensors", "--plan", plan) == 2
    assert not (tmp_path / "out.safetensors").exists()
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget", "2 bits"), "are possible"),
        (("--budget", "30 bits"), "are possible"),
        (("--budget", "many"), "is not understood"),
        (("--budget", "7 bits", "--formats", "int3"), "'int3' is unknown"),
        (("--budget", "7 bits", "--calibration", "absent.safetensors"), "no such file"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(folder: Path, capsys, arguments: tuple[str, ...], said: str) -> None:
    assert run("plan", folder / "model.safetensors", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (("-o", "no/plan.json"), "there is no folder"),
        (("-o", "."), "it is a folder; name a file"),
        (("--curve", "no/curve.png"), "there is no folder"),
        (("--curve", "curve.xyz"), "is no kind of picture"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_planned(
    folder: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, where: tuple[str, str], said: str
) -> None:
    option, name = where
    monkeypatch.setattr(planner, "candidate", lambda *asked: pytest.fail("a layer was tried"))
    arguments = ("--budget", "7 bits", "-o", tmp_path / "plan.json", option, tmp_path / name)
    assert run("plan", folder / "model.safetensors", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def interrupted(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> None:
    """Ctrl+C at the second call of a function."""
    calls, work = [], getattr(module, name)

    def call(*given: object) -> object:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return work(*given)

    monkeypatch.setattr(module, name, call)


def test_a_plan_that_is_cancelled_leaves_nothing(folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    interrupted(monkeypatch, planner, "candidate")
    out = tmp_path / "plan.json"
    assert (
        run("plan", folder / "model.safetensors", "--budget", "7 bits", "-o", out, "--curve", tmp_path / "c.png") == 1
    )
    assert "Interrupted; nothing was left behind." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_plan_whose_carrying_out_is_cancelled_leaves_nothing(folder: Path, plan: Path, capsys, monkeypatch) -> None:
    interrupted(monkeypatch, rounding, "with_feedback")
    assert run("convert", folder / "model.safetensors", plan.parent / "out.safetensors", "--plan", plan) == 1
    assert "Interrupted; nothing was left behind." in capsys.readouterr().err
    assert [one.name for one in plan.parent.iterdir()] == ["plan.json"]


def test_plan_prints_the_curve_and_json(folder: Path, tmp_path: Path, capsys) -> None:
    picture = tmp_path / "curve.png"
    assert not run("plan", folder / "model.safetensors", "--budget", "7 bits", "--json", "--curve", picture)
    found = json.loads(capsys.readouterr().out)
    assert {point["kind"] for point in found["curve"]} == {"mixed", "uniform", "chosen"}
    assert picture.read_bytes().startswith(b"\x89PNG")
