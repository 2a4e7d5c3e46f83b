"""Methods: names, formats, granularities, what a device runs best, and what is known to hurt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from scaled_fp8.quant import FORMATS, Refused
from scaled_fp8.quant.kernels import plan, proof, speed
from scaled_fp8.quant.kernels.probe import probe_error
from scaled_fp8.quant.kernels.proof import probed
from scaled_fp8.quant.kernels.proof_cache import Proof
from scaled_fp8.quant.kernels.registry import Kernel
from scaled_fp8.quant.kernels.rules import Workload
from scaled_fp8.quant.recipes import auto, methods
from scaled_fp8.quant.recipes.auto import best, pick
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


def test_a_vae_gets_int8() -> None:
    assert pick("auto", "cpu", component="vae").method.name == "int8"


def test_a_name_is_taken_as_it_is() -> None:
    assert pick("int4", "cpu") == auto.Pick(METHODS["int4"], "as asked")


##### auto, by time and exactness


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """Kernel -> its time; 100 where nothing is given. Nothing is remembered of earlier ones."""
    times: dict[str, float] = {}
    monkeypatch.setattr(speed, "ratio", lambda kernel, layer, tokens: times.get(kernel.name, 100.0))
    best.cache_clear()
    yield times
    best.cache_clear()


CPU = torch.device("cpu")
FP8, INT8, CONVROT, UPCAST = "scaled_mm per-row", "scaled_mm int8", "scaled_mm int8 convrot", "upcast by bits"


@pytest.mark.parametrize(
    ("times", "name"),
    [
        ({FP8: 0.50, INT8: 0.80, CONVROT: 0.9, UPCAST: 1.1}, "fp8-dynamic"),
        ({FP8: 0.55, INT8: 0.54, CONVROT: 0.6, UPCAST: 1.1}, "int8-convrot"),
        ({FP8: 0.90, INT8: 0.90, CONVROT: 0.9, UPCAST: 0.3}, "fp8-weight-only"),
    ],
    ids=["FP8 is faster", "INT8 is as fast, and more exact", "nothing is as fast as upcasting"],
)
def test_auto_weighs_time_and_exactness(table: dict[str, float], times: dict[str, float], name: str) -> None:
    table.update(times)
    found, reason = best(CPU, torch.float32)
    assert found == name
    assert reason.startswith(f"weighed on cpu by time and exactness: {name} ")
    # what was not taken is told with its figures too
    assert all(other in reason for other in auto.CANDIDATES)


def test_int8_is_as_much_more_exact_as_its_bits_say(table: dict[str, float]) -> None:
    """Two roundings of 8 bits against two of 4: 6 dB at least, with a rotation also where channels stand out."""
    kept = {name: auto.weighed(name, CPU, torch.float32) for name in auto.CANDIDATES}
    signals = {name: one.decibels for name, one in kept.items() if isinstance(one, auto.MethodCandidate)}
    assert signals["int8-convrot"] > signals["fp8-dynamic"] + 6
    assert 26 < signals["fp8-dynamic"] < signals["fp8-weight-only"] < signals["int8-convrot"]
    # which is what a rotation is for
    assert signals["int8"] < signals["int8-convrot"] - 6


def test_of_methods_that_are_alike_the_first_is_taken() -> None:
    one = auto.MethodCandidate("int8", "a", 1.0, 37.0)
    other = auto.MethodCandidate("int8-convrot", "b", 1.05, 37.3)
    assert auto.most_exact([one, other]) == one
    assert auto.most_exact([one, replace(other, decibels=41.0)]).method == "int8-convrot"
    assert auto.most_exact([one, replace(other, decibels=41.0, time=1.3)]) == one


@pytest.mark.parametrize("wrong", (True, False), ids=("is wrong", "raises"))
def test_a_device_without_an_int8_gemm_does_not_get_it(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, float], wrong: bool
) -> None:
    """The kernel's own proof says so, and the reason tells it."""

    def product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        if not wrong:
            raise NotImplementedError("no")
        found = a.int() @ b.int() + 30000
        return found if out is None else out.copy_(found)

    def prove(kernel: Kernel, layer: Workload) -> Proof:
        small = replace(layer, shape=proof.SHAPE)
        return probed(lambda: probe_error(kernel, small, "eager"), CPU, kernel.bound)[0]

    monkeypatch.setattr(torch, "_int_mm", product)
    monkeypatch.setattr(plan, "prove", lambda k, layer: (prove if "int8" in k.name else proof.prove)(k, layer))
    table.update({INT8: 0.1, UPCAST: 1.0})
    found, reason = best(CPU, torch.float32)
    assert found == "fp8-weight-only"
    assert f"int8 not: {INT8} {'is wrong' if wrong else 'raises'} on cpu" in reason


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
