"""Compare Models beside core's own sampling, beside weights multiplied by hand, and in every way a model is loaded."""

from __future__ import annotations

from math import inf, isclose

import pytest

LAYER = "double_blocks.0.img_attn.qkv"
REGIMES = {"legacy": False, "dynamic": True}


@pytest.fixture(scope="module", params=REGIMES)
def compared(request, contract, figure) -> dict:
    figures = contract("compare", dynamic=REGIMES[request.param])
    figure(f"Compare Models, {request.param}: {figures['fp8']['latent_error']} from bf16 in 2 steps; "
           f"worst layer {figures['fp8']['worst_layer']} dB")  # fmt: skip
    for name, sentence in figures.get("refusals", {}).items():
        figure(f"refusal, {name}: {sentence}")
    return figures | {"dynamic": REGIMES[request.param]}


@pytest.fixture
def legacy(compared) -> dict:
    if compared["dynamic"]:
        pytest.skip("the same without dynamic VRAM")
    return compared


def close(a: str | float, b: str | float, tolerance: float = 0.01) -> bool:
    return isclose(float(a), float(b), rel_tol=tolerance)


def test_latent_error_is_that_of_samplings_of_ones_own(compared):
    assert close(compared["one seed"]["latent_error"], compared["one seed"]["own"])
    assert close(compared["computes"]["latent_error"], compared["computes"]["own"])


def test_further_images_have_the_next_seeds(compared):
    low, high = sorted(compared["two seeds"]["own"])
    assert low < float(compared["two seeds"]["latent_error"]) < high
    assert "seed" not in compared["two seeds"]["report"].splitlines()[0]


def test_pictures_are_measured_as_by_hand(legacy):
    found = legacy["fp8"]
    assert float(found["psnr"]) == pytest.approx(found["own psnr"], abs=0.01)
    assert float(found["ssim"]) == pytest.approx(found["own ssim"], abs=1e-4)
    assert found["shapes"] == [[1, 64, 64, 3]] * 3


def test_lpips_is_there_where_its_weights_are(legacy):
    assert legacy["lpips without"] is None
    assert close(*legacy["lpips"], 1e-5)


def test_the_difference_is_enlarged_and_not_clipped(legacy):
    assert 0.5 < legacy["fp8"]["brightest"] <= 1
    assert legacy["fp8"]["proportional"] < 1e-5
    assert "times enlarged" in legacy["fp8"]["report"]


def test_a_layers_error_is_that_of_its_weights_by_hand(compared):
    assert float(compared["fp8"]["errors"][LAYER]) == pytest.approx(compared["fp8"]["by hand"], abs=0.05)


def test_only_quantized_layers_have_an_error(compared):
    errors = {name: float(decibel) for name, decibel in compared["fp8"]["errors"].items()}
    assert {name for name, decibel in errors.items() if decibel < inf} == {n for n in errors if "blocks." in n}
    assert len(errors) > 20


def test_a_model_has_no_error_from_itself(compared):
    for same in ("itself", "its twin"):
        assert float(compared[same]["latent_error"]) == 0
        assert float(compared[same]["worst_layer"]) == inf


def test_identical_pictures_are_called_so(legacy):
    assert (legacy["itself"]["psnr"], legacy["itself"]["ssim"]) == ("inf", "1.0")
    assert "PSNR: identical" in legacy["itself"]["report"]


def test_noise_is_told_with_its_layers_though_nobody_asked(compared):
    report = compared["noise"]["report"]
    first = report.splitlines()[0]
    assert f"{compared['noise']['layers']} of " in first and "noise" in first and "double_blocks.0." in first
    noisy = {name for name, decibel in compared["noise"]["errors"].items() if float(decibel) < 3}
    assert len(noisy) == compared["noise"]["layers"]


def test_clones_of_one_model_are_compared_as_two_files_would_be(compared):
    assert compared["clones"]["clone"] == compared["clones"]["fresh"]
    assert 0 < float(compared["clones"]["clone"][0]["latent_error"]) < 0.06


@pytest.mark.parametrize("way", ["LoraLoaderModelOnly", "LoraLoaderBypassModelOnly"])
def test_lora_belongs_to_a_layer(compared, way):
    found = compared["lora"]
    assert found[way] == pytest.approx(found["by hand"], abs=0.05)
    # another LoRA of the same file: with dynamic VRAM the merged weight is a bfloat16, rounded by chance
    assert found[f"{way} beside merged"] > (55 if compared["dynamic"] else 80)
    assert found[f"{way} itself"] == {"latent_error": "0.0", "worst_layer": "inf"}
    assert close(found[f"{way} quantized"], found[f"{way} quantized, own"])


def test_two_computes_of_one_file_differ_where_they_compute(compared):
    errors = {name: float(decibel) for name, decibel in compared["computes"]["errors"].items()}
    assert {name for name, decibel in errors.items() if decibel < inf} == {n for n in errors if "blocks." in n}
    assert min(errors.values()) > 20


def test_neither_model_is_changed(compared):
    assert compared["exact output"] and compared["exact state"]
    measured, ran = compared["calls"]
    assert measured == ran
    assert compared["clone has errors"] == {}


def test_an_interrupt_leaves_both_as_they_were(compared):
    for raised, _, hooks in compared["interrupted"]:
        assert (raised, hooks) == ("InterruptProcessingException", 0)
    assert compared["after"] == compared["clones"]["clone"][:2]


def test_a_card_of_what_is_saved_has_the_figures(compared):
    assert compared["card"] == pytest.approx(float(compared["after"][0]["latent_error"]), rel=1e-6)


def test_one_progress_bar_goes_over_everything(compared):
    values, totals = zip(*compared["progress"], strict=True)
    assert list(values) == sorted(values)
    assert values[-1] == 9 and set(totals) == {9}


def test_low_vram(legacy):
    found, errors, _ = legacy["low vram"]
    want, layers = legacy["after"]
    assert close(found["latent_error"], want["latent_error"])
    assert errors == layers


REFUSALS = {
    "architecture": ("Flux2", "TAESD"),
    "layer": ("single_blocks.2", "digits-flux2-bf16.safetensors", "compare-shallow.safetensors"),
    "latent": ("[1, 4, 8, 8]", "Flux2", "128 channels"),
    "vae": ("TAESD", "4 channels", "128"),
    "missed": ("Latent error", "at most"),
    "not measured": ("psnr", "latent_error", "VAE"),
    "no report": ("Compare Models",),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_is_one_sentence_naming_both(legacy, name):
    sentence = legacy["refusals"][name]
    assert sentence.startswith("Refused: ") and "\n" not in sentence
    assert all(word in sentence for word in REFUSALS[name]), sentence


def test_a_limit_that_holds_hands_the_report_on(legacy):
    assert legacy["held"]
