"""Chosen by time: of the proven kernels the fastest for each number of tokens, by tables of times that are given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from products import E4M3, activation, product, quantized, sqnr
from scaled_fp8 import quant
from scaled_fp8.quant.kernels import plan, proof_cache, speed
from scaled_fp8.quant.kernels.arrangement import Arrangement
from scaled_fp8.quant.kernels.moment import InForward
from scaled_fp8.quant.kernels.plan import choose, choose_for
from scaled_fp8.quant.kernels.proof_cache import Proof, Time
from scaled_fp8.quant.kernels.registry import KERNELS
from scaled_fp8.quant.kernels.rules import Workload
from scaled_fp8.quant.kernels.speed import beside_bfloat16
from torch import nn

CPU = torch.device("cpu")
KERNEL = {kernel.name: kernel for kernel in KERNELS}
LAYER = Workload(E4M3, quant.PerRow(), (640, 300), CPU, torch.bfloat16)
# as on a GPU: few tokens by a byte a weight, many by the matrix units
GPU = {"upcast by bits": (0.6, 0.8, 1.0, 1.4, 1.5), "scaled_mm per-row": (2.0, 1.5, 0.9, 0.7, 0.6)}


@pytest.fixture
def times(monkeypatch):
    """Give a table: kernel -> time for each of speed.TOKENS, or one for all; 100 for the others."""

    def give(table: dict[str, float | tuple[float, ...]]) -> list[tuple[str, int]]:
        asked = []

        def ratio(kernel, layer, tokens):
            asked.append((kernel.name, tokens))
            found = table.get(kernel.name, 100.0)
            return found if isinstance(found, float) else found[speed.TOKENS.index(tokens)]

        monkeypatch.setattr(speed, "ratio", ratio)
        return asked

    return give


@pytest.fixture
def measured_to_the_end(monkeypatch):
    """A device on which all numbers of tokens are measured."""
    monkeypatch.setitem(speed.BOUNDS, "cpu", speed.Bounds(4096, 64, 4096, 0.8, 30.0))


def chosen(compute: str = "auto", **options) -> plan.Choice:
    return choose(E4M3, quant.PerRow(), LAYER.shape, CPU, torch.bfloat16, compute, **options)


@pytest.mark.parametrize(
    ("tokens", "stands_for"),
    ((0, 1), (1, 1), (4, 1), (5, 16), (32, 16), (33, 64), (77, 64), (181, 64), (182, 512), (1448, 512),
     (1449, 4096), (9**9, 4096)),
)  # fmt: skip
def test_numbers_of_tokens_go_by_their_ratio(tokens, stands_for):
    assert speed.nearest(tokens) == stands_for


def test_each_number_of_tokens_has_the_fastest(times, measured_to_the_end):
    times(GPU)
    choice = chosen()
    names = {tokens: choice.way(tokens).kernel.name for tokens in speed.TOKENS}
    assert names == {
        1: "upcast by bits", 16: "upcast by bits", 64: "scaled_mm per-row", 512: "scaled_mm per-row",
        4096: "scaled_mm per-row",
    }  # fmt: skip
    assert choice.kernel.name == "scaled_mm per-row"
    assert (choice.way(1).activation, choice.way(4096).activation) == (None, "dynamic")


def test_the_report_says_which_ran_how_often(times, measured_to_the_end):
    times(GPU)
    values = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(64, 48, bias=False))
    handle = quant.patch_linears(model, {"0": quantized(values)})
    with torch.no_grad():
        for tokens, least in ((1, 40), (1, 40), (100, 28)):
            x = activation(1.0, tokens, 64)
            assert sqnr(model(x), product(x, quantized(values))) >= least
    row = handle.report().rows[0]
    assert row.ran == {"upcast by bits": 2, "scaled_mm per-row": 1} and row.calls == 3
    assert (row.kernel, row.reason) == ("upcast by bits", "the fastest for about 1 tokens")
    assert "2 upcast by bits, 1 scaled_mm per-row" in handle.report().table()


def test_insisting_on_codes_leaves_out_what_dequantizes_but_not_time(times):
    times({"upcast by bits": 0.1, "scaled_mm per-row": 11.0, "scaled_mm emulated per-row": 14000.0})
    choice = chosen("scaled_mm")
    assert (choice.kernel.name, choice.others) == ("scaled_mm per-row", {})
    times({"scaled_mm per-row": 11.0, "scaled_mm emulated per-row": 2.0})
    choice = chosen("scaled_mm")
    assert choice.kernel.name == "scaled_mm emulated per-row"
    assert choice.refused["scaled_mm per-row"] == "takes 5.5 times as long as scaled_mm emulated per-row"


def test_a_faster_one_that_is_wrong_is_not_taken(times, monkeypatch):
    times({"upcast by bits": 0.1, "upcast": 0.2, "scaled_mm per-row": 3.0})
    real = plan.prove
    wrong = Proof(0.3, "is wrong on cpu")
    monkeypatch.setattr(plan, "prove", lambda k, layer: wrong if k.family == "upcast" else real(k, layer))
    choice = chosen()
    assert choice.kernel.name == "scaled_mm per-row"
    assert choice.refused["upcast by bits"] == "is wrong on cpu"


def test_what_is_too_slow_is_neither_proven_nor_tried_with_more_tokens(times, monkeypatch):
    proven = []
    monkeypatch.setattr(plan, "prove", lambda kernel, layer: proven.append(kernel.name) or Proof(0.0, None))
    asked = times({"upcast by bits": 1.0, "scaled_mm per-row": 7.0, "scaled_mm emulated per-row": 1000.0})
    chosen()
    assert set(proven) == {"upcast by bits"}
    assert {tokens for name, tokens in asked if name == "scaled_mm emulated per-row"} == {1}
    assert {tokens for name, tokens in asked if name == "scaled_mm per-row"} == {1, 16, 64}


def test_times_that_are_near_each_other_leave_the_order():
    names = ("scaled_mm per-row", "upcast by bits", "upcast")
    kernels = [KERNEL[name] for name in names]
    ranked = speed.order(dict(zip(kernels, (1.0, 0.7, 0.5), strict=True)), CPU)
    assert [kernel.name for kernel in ranked] == ["upcast", "scaled_mm per-row", "upcast by bits"]


def test_a_single_kernel_is_not_measured(times):
    asked = times({})
    assert choose(quant.FORMATS["int8"], quant.PerRow(), (64, 64), CPU, torch.float32, "int8").kernel.family == "int8"
    assert not asked


def test_a_layer_is_measured_by_its_class():
    assert speed.class_of(LAYER).shape == (512, 256)
    assert speed.class_of(Workload(E4M3, quant.PerRow(), (3072, 9), CPU, torch.float32)).shape == (2048, 256)
    gpu = Workload(E4M3, quant.PerRow(), (9216, 3072), torch.device("meta"), torch.float32)
    assert speed.class_of(gpu).shape == (4096, 4096)


##### Never in the middle of a forward


def test_nothing_is_measured_in_a_forward(times):
    model = nn.Sequential(nn.Linear(64, 48)).bfloat16()
    asked = times({})
    handle = quant.patch_linears(model, {"0": quantized(torch.ones(48, 64))})
    assert asked
    asked.clear()
    with torch.no_grad():
        # another dtype than planned
        model.float()(torch.ones(2, 64))
    assert not asked
    assert len(handle.patches["0"].choices) == 2


def test_without_times_float8_products_are_not_what_a_cpu_takes(times):
    asked = times({"scaled_mm per-row": 0.1})
    with InForward():
        choice = choose_for(quantized(torch.ones(48, 64)), CPU, torch.bfloat16)
    assert (choice.kernel.family, asked) == ("upcast", [])
    assert f"scaled_mm emulated per-row usually takes longer than {choice.kernel.name}" in choice.reason


def test_processes_that_compute_together_do_not_ask_their_clocks(times, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    asked = times({"scaled_mm per-row": 0.1})
    assert (chosen().kernel.family, asked) == ("upcast", [])


##### Kept with the proofs


def test_times_are_kept_with_the_proofs(monkeypatch, tmp_path):
    monkeypatch.setenv("SCALED_FP8_CACHE", str(tmp_path))
    asked = []
    monkeypatch.setattr(speed, "measured", lambda *of: (Time(3.5), not asked.append(of)))
    kernel = KERNEL["upcast by bits"]
    for _ in range(2):
        found = proof_cache.remembered(speed.question(kernel, LAYER, 1), CPU, lambda: speed.measured(kernel, LAYER, 1))
        assert found == Time(3.5)
    assert len(asked) == 1
    with InForward():
        alike = speed.class_of(LAYER)
        proof_cache.remembered(speed.question(kernel, alike, 1), CPU, lambda: (Time(7.0), True))
        assert speed.time_of(kernel, LAYER, 1) == 7.0


@pytest.mark.parametrize("ratio", ("3", -1.0, 0.0, None))
def test_a_time_that_is_none_is_measured_again(ratio):
    with pytest.raises(ValueError, match="not a time"):
        proof_cache.checked(ratio=ratio)


@pytest.mark.parametrize("name", ("scaled_mm per-row", "upcast by bits"))
def test_a_measurement_is_a_positive_number(name):
    time, lasting = speed.measured(KERNEL[name], speed.class_of(LAYER), 1)
    assert 0 < time.ratio < float("inf") and lasting


def test_what_raises_has_no_time():
    broken = KERNEL["scaled_mm block"]
    assert speed.measured(broken, speed.class_of(LAYER), 1) == (Time(float("inf")), False)


def test_what_a_layer_holds_is_not_made_in_each_run():
    """Scales in a kernel's order, made when it is chosen, are no part of its time."""
    made, read = [], []

    def arrange(weight, device):
        made.append(device)
        return torch.ones(1)

    def compute(x, weight, bias):
        read.append(weight.arranged is not None)
        return x.new_empty(len(x), weight.shape[0])

    kernel = replace(KERNELS[-1], name="arranged", arrange=Arrangement(arrange), compute=compute)
    assert beside_bfloat16(kernel, replace(LAYER, shape=(256, 256)), 1) > 0
    assert len(made) == 1 and len(read) > 3 and all(read)
