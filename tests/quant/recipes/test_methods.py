"""Methods: names, formats, granularities, what a device runs best, and what is known to hurt."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from scaled_fp8.quant import FORMATS, Refused
from scaled_fp8.quant.recipes import auto, methods
from scaled_fp8.quant.recipes.auto import best, int8_problem, pick
from scaled_fp8.quant.recipes.compile_warnings import COMPILE_MODES, OFFLOADS, WARNED, get_quant_compile_warnings
from scaled_fp8.quant.recipes.methods import ALIASES, METHODS, method_named

FORMATTED = [method for method in METHODS.values() if method.format_name]


def test_users_names_are_there() -> None:
    assert {"none", "auto", "fp8-dynamic", "fp8-weight-only", "int8", "int4"} <= set(METHODS)
    assert method_named("fp8") is METHODS["fp8-dynamic"]
    assert set(ALIASES.values()) <= set(METHODS)


@pytest.mark.parametrize("method", FORMATTED, ids=lambda m: m.name)
def test_every_method_has_a_format_of_the_table(method: methods.Method) -> None:
    assert method.format is FORMATS[str(method.format_name)]
    assert method.granularity() is method.format.granularities[0]


def test_granularity_is_the_users_where_the_format_has_it() -> None:
    assert METHODS["fp8-dynamic"].granularity("block").name == "block"
    assert METHODS["int8"].granularity("per-tensor").name == "per-tensor"
    assert METHODS["nvfp4"].granularity("per-row").name == "group"
    with pytest.raises(Refused, match="granularity 'block' is none of int8's"):
        METHODS["int8"].granularity("block")
    with pytest.raises(Refused, match="granularity 'rows' is unknown; choose one of per-tensor, per-row, block"):
        METHODS["nvfp4"].granularity("rows")


@pytest.mark.parametrize("name", ["fp7", "", "FP8"])
def test_unknown_methods_are_refused(name: str) -> None:
    with pytest.raises(Refused, match="choose one of none, auto, fp8-dynamic"):
        method_named(name)


@pytest.mark.parametrize("name", ["none", "auto"])
def test_two_methods_have_no_format(name: str) -> None:
    with pytest.raises(Refused, match="no format of its own"):
        _ = METHODS[name].format


##### auto


def test_a_cpu_upcasts() -> None:
    found = pick("auto", "cpu")
    assert found.method.name == "fp8-weight-only"
    assert "no FP8 units" in found.reason


def test_a_vae_gets_int8() -> None:
    assert pick("auto", "cpu", component="vae").method.name == "int8"


def test_a_name_is_taken_as_it_is() -> None:
    assert pick("int4", "cpu") == auto.Pick(METHODS["int4"], "as asked")


def pretend(monkeypatch: pytest.MonkeyPatch, family: str, int8: str | None) -> None:
    kernel = SimpleNamespace(on_codes=family == "scaled_mm", name=f"{family} kernel")
    choice = SimpleNamespace(kernel=kernel, reason="as probed")
    monkeypatch.setattr(auto, "choose", lambda *_: choice)
    monkeypatch.setattr(auto, "int8_problem", lambda _: int8)


@pytest.mark.parametrize(
    ("family", "int8", "name"),
    [("scaled_mm", None, "fp8-dynamic"), ("upcast", None, "int8"), ("upcast", "_int_mm is wrong", "fp8-weight-only")],
    ids=["proven FP8 GEMM", "before Ada", "neither"],
)
def test_a_gpu_gets_what_its_probes_say(
    monkeypatch: pytest.MonkeyPatch, family: str, int8: str | None, name: str
) -> None:
    pretend(monkeypatch, family, int8)
    found, reason = best.__wrapped__(torch.device("cuda:7"), torch.bfloat16)
    assert found == name
    assert "cuda:7" in reason and "as probed" in reason


def test_the_int8_probe_sees_a_wrong_gemm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert int8_problem(torch.device("cpu")) is None
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: a.int() @ b.int() + 1)
    assert int8_problem(torch.device("cpu")) == "_int_mm is wrong"


def test_the_int8_probe_sees_a_missing_gemm(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise NotImplementedError("no")

    monkeypatch.setattr(torch, "_int_mm", missing)
    assert int8_problem(torch.device("cpu")) == "_int_mm raises NotImplementedError"


##### Combinations that hurt


@pytest.mark.parametrize(
    ("combination", "words"),
    [
        (("fp8", None, None), "compile the model"),
        (("int8", "reduce-overhead", "model"), "CUDA graphs"),
        (("fp8-dynamic", "default", "dynamic"), "--disable-dynamic-vram"),
        (("fp8-weight-only", "none", None), "not time"),
        (("mxfp8", "max-autotune", None), "Triton"),
    ],
    ids=str,
)
def test_what_hurts_is_said(combination: tuple[str, str | None, str | None], words: str) -> None:
    assert any(words in text for text in get_quant_compile_warnings(*combination))


@pytest.mark.parametrize(
    "combination", [("none", "reduce-overhead", "sequential"), ("fp8", "default", "none")], ids=str
)
def test_what_does_not_hurt_is_not(combination: tuple[str, str, str]) -> None:
    assert get_quant_compile_warnings(*combination) == []


@pytest.mark.parametrize("row", WARNED, ids=lambda row: row.text[:30])
def test_every_row_can_be_met(row: object) -> None:
    every = [
        get_quant_compile_warnings(method, mode, offload)
        for method in METHODS
        for mode in COMPILE_MODES
        for offload in OFFLOADS
    ]
    assert any(row.text in texts for texts in every)  # type: ignore[attr-defined]


@pytest.mark.parametrize("combination", [("fp8", "fast", None), ("fp8", None, "disk")], ids=str)
def test_unknown_combinations_are_refused(combination: tuple[str, str | None, str | None]) -> None:
    with pytest.raises(Refused, match="is unknown; choose one of none"):
        get_quant_compile_warnings(*combination)
