"""Plans of the digits model: budgets kept, never worse than uniform formats, carried out byte for byte as predicted."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scaled_fp8.quant import FORMATS, Refused
from scaled_fp8.quant.calibration.candidates import ROWS, spaced_rows, stored_bytes
from scaled_fp8.quant.calibration.moments import moments_of
from scaled_fp8.quant.calibration.plan import Plan
from scaled_fp8.quant.calibration.planner import Model, PlanRequest, plan_model, weighed
from scaled_fp8.quant.calibration.store import Facts, Record, read_calibration, sample_of, save_calibration
from scaled_fp8.quant.files.reader import read_safetensors
from scaled_fp8.quant.weights.encode import quantize
from scaled_fp8.quant.weights.native import loads_in_core, native_tensors
from torch import Tensor

NATIVE = [format for format in FORMATS.values() if loads_in_core(format, format.granularities[0])]
FEW = ("int8", "float8_e4m3fn")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer with layers of unlike sensitivity: the later the block, the stronger its outliers."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for block in range(4):
        for name, shape in (("attn.qkv", (192, 128)), ("mlp.0", (256, 128)), ("mlp.2", (128, 256))):
            weight = torch.randn(shape, generator=generator) * 0.05
            weight[:: 8 - block] *= 1 + 3 * block
            tensors[f"blocks.{block}.{name}.weight"] = weight.bfloat16()
    tensors["final_layer.linear.weight"] = torch.randn(64, 128, generator=generator).bfloat16()
    tensors["blocks.0.norm.weight"] = torch.ones(128).bfloat16()
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def calibration(model: Path) -> Path:
    generator, records = torch.Generator().manual_seed(1), {}
    for index, (name, weight) in enumerate(weights(model).items()):
        x = torch.randn(500, weight.shape[1], generator=generator) * torch.logspace(-1, 1, weight.shape[1])
        records[name] = Record(tuple(weight.shape), sample_of(weight), moments_of(x), 0.05 * (index + 1))  # type: ignore[arg-type]
    path = model.parent / "calibration.safetensors"
    save_calibration(path, records, Facts(4, 1))
    return path


def weights(model: Path) -> dict[str, Tensor]:
    found = read_safetensors(model).tensors
    pairs = ((name, stored.read(0, stored.info.numel).reshape(stored.info.shape)) for name, stored in found.items())
    return {name.removesuffix(".weight"): tensor for name, tensor in pairs if "blocks" in name and tensor.dim() == 2}


@cache
def known_costs(model: Path, calibration: Path | None, request: PlanRequest) -> Model:
    return weighed(model, request, calibration)


def planned(model: Path, budget: str, calibration: Path | None = None, **request) -> Plan:
    return plan_model(known_costs(model, calibration, PlanRequest("", **request)), PlanRequest(budget, **request))


@pytest.mark.parametrize("known", [False, True], ids=["weights", "moments"])
@pytest.mark.parametrize("bits", [4.7, 5.5, 6.5, 8.2, 12])
def test_a_budget_is_kept_and_no_uniform_format_of_its_size_is_better(model, calibration, bits, known) -> None:
    plan = planned(model, f"{bits} bits", calibration if known else None)
    count = sum(weight.numel() for weight in weights(model).values())
    assert sum(row.bytes for row in plan.rows) * 8 / count == pytest.approx(plan.bits)
    assert plan.bits <= bits
    assert plan.error <= min((p.error for p in plan.curve.of("uniform") if p.bits <= bits), default=1e9) * (1 + 1e-6)


def test_more_bits_less_error(model: Path, calibration: Path) -> None:
    errors = [planned(model, f"{bits} bits", calibration).error for bits in (4.7, 5.5, 7, 9, 13)]
    assert errors == sorted(errors, reverse=True)


def test_an_error_and_the_size_it_takes_are_two_ways_to_say_one_thing(model: Path, calibration: Path) -> None:
    by_error = planned(model, "error 0.01", calibration)
    assert by_error.error <= 0.01
    by_size = planned(model, f"{by_error.bytes / 1e6} MB", calibration)
    assert by_size.error <= by_error.error * (1 + 1e-6)


def test_families_rules_and_keep_are_kept(model: Path) -> None:
    plan = planned(model, "12 bits", formats=FEW, keep=r"blocks\.1\.")
    assert plan.row("final_layer.linear") is None
    assert plan.row("blocks.1.mlp.0") is None
    assert plan.row("model.diffusion_model.blocks.0.mlp.0") is not None


def test_factors_decide_where_the_bytes_go(model: Path, calibration: Path) -> None:
    plan = planned(model, "6 bits", calibration, formats=("nvfp4", "int8"))
    assert plan.measure == "measured sensitivity"
    bits = [row.bytes * 8 / weights(model)[row.layer].numel() for row in plan.rows]
    assert sum(bits[6:]) > sum(bits[:6])


def test_levels_of_formats_are_in_what_is_predicted(model: Path, calibration: Path) -> None:
    known, path = read_calibration(calibration), calibration.with_stem("levels")
    save_calibration(path, dict(known), Facts(4, 1, {"int8": 3.0}))
    curves = [planned(model, "9 bits", one, formats=FEW).curve.of("uniform") for one in (calibration, path)]
    before, after = ({point.name: point.error for point in points} for points in curves)
    assert after["int8"] == pytest.approx(3 * before["int8"])
    assert after["float8_e4m3fn"] == pytest.approx(before["float8_e4m3fn"])


def test_a_plan_without_factors_rests_on_moments(model: Path, calibration: Path) -> None:
    known = read_calibration(calibration)
    records = {name: replace(known[name], factor=None) for name in known}
    errors = {}
    for name, levels in (("no factors", {}), ("no factors, levels", {"int8": 3.0, "nvfp4": 3.0})):
        save_calibration(calibration.with_stem(name), records, Facts(4, 1, levels))
        plan = planned(model, "6 bits", calibration.with_stem(name))
        assert plan.measure == "moments of the inputs"
        errors[name] = plan.error
    # a level is of the factors that it was measured with
    assert len(set(errors.values())) == 1


TINY = "." + "0" * 400 + "1 bits"


@pytest.mark.parametrize("budget", ["3 bits", "17 bits", "0 bits", TINY, "1 KB", "9 GB", "error 5", "error 0"])
def test_impossible_budgets_are_refused_with_the_range(model: Path, budget: str) -> None:
    with pytest.raises(Refused, match="possible") as refusal:
        planned(model, budget, formats=FEW)
    assert " to " in str(refusal.value) and len(str(refusal.value)) < 200


def test_formats_that_do_not_exist_are_refused(model: Path) -> None:
    with pytest.raises(Refused, match="'int3' is unknown"):
        planned(model, "8 bits", formats=("int3",))


def test_a_format_that_core_does_not_load_is_taken_where_it_is_named(model: Path) -> None:
    named = planned(model, "9 bits", formats=("float8_e4m3fnuz",))
    assert "only this pack loads float8_e4m3fnuz" in named.table()
    assert "only this pack" not in planned(model, "9 bits").table()


@pytest.mark.parametrize("format", NATIVE, ids=lambda format: format.name)
@pytest.mark.parametrize("shape", [(64, 256), (130, 1024), (50, 64)])
def test_bytes_are_those_that_are_saved(format, shape) -> None:
    granularity = format.granularities[0]
    saved = native_tensors(quantize(torch.randn(shape), format, granularity), "")
    assert stored_bytes(format, granularity, shape) == sum(t.nbytes for n, t in saved.items() if n != "comfy_quant")


def test_some_rows_have_the_largest_value() -> None:
    weight = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    rows = spaced_rows(weight)
    assert rows.shape == (ROWS, 8)
    assert rows.abs().amax() == weight.abs().amax()
