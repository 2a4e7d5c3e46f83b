"""LoRA keeps its full strength on scaled weights, and leaves nothing behind."""

from __future__ import annotations

import pytest

CASES = [f"{node}-{way}-{regime}" for node in ("loader", "patch") for way in ("merged", "beside")
         for regime in ("loaded", "lowvram")]  # fmt: skip


@pytest.fixture(scope="module")
def lora(contract, figure) -> dict:
    figures = contract("lora")
    figure(f"LoRA's own effect on one forward: {figures['effect']:.3f}")
    for case in CASES:
        figure(f"LoRA {case}: {figures[case]['sqnr']:.1f} dB of bf16 + LoRA; at 0.5: {figures[case]['half']:.1f} dB")
    for way in ("merged", "beside"):
        figure(f"LoRA core's own marked file, {way}: {figures[f'core-{way}']}")
    return figures


def test_lora_itself_is_no_small_thing(lora):
    assert 0.3 < lora["effect"] < 0.8


@pytest.mark.parametrize("case", CASES)
def test_full_strength(lora, case):
    assert lora[case]["sqnr"] >= 24
    assert lora[case]["again"] >= 24
    assert lora[case]["half"] >= 24


@pytest.mark.parametrize("case", CASES)
def test_removing_returns_to_the_exact_base(lora, case):
    assert lora[case]["exact_output"]
    assert lora[case]["exact_state"]


def test_order_of_lora_and_patch_does_not_matter(lora):
    assert min(lora["patch-after-lora"].values()) >= 24


def test_patch_runs_on_a_model_that_had_a_bypass_lora(lora):
    assert lora["patch-after-bypass"] <= 0.06
