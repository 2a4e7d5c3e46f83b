"""The nodes themselves: schemas as fixed, refusals in one sentence, interrupt, progress, all-in-one files."""

from __future__ import annotations

import pytest

# Fixed by the design: users' workflows hang on these.
SCHEMAS = {
    "LoadFP8Checkpoint": (["checkpoint", "compute", "activation_scale"], ["MODEL", "CLIP", "VAE", "STRING"]),
    "LoadFP8TextEncoder": (["text_encoder", "text_encoder_2", "type", "compute", "device"], ["CLIP", "STRING"]),
    "ScaledLinearPatch": (
        ["model", "compute", "activation_scale", "layers", "scales_from", "high_precision_steps"],
        ["MODEL", "STRING"],
    ),
    "CompareModels": (
        [
            "model_a",
            "model_b",
            "positive",
            "negative",
            "latent",
            "seed",
            "steps",
            "cfg",
            "sampler_name",
            "scheduler",
            "images",
            "vae",
            "attribute",
        ],
        ["IMAGE", "IMAGE", "IMAGE", "STRING"],
    ),
    "RequireQuality": (["report", "metric", "limit"], ["STRING"]),
}
REFUSALS = {
    "cut": "cut.safetensors",
    "alien": "alien.safetensors",
    "absent": "absent.safetensors",
    "nothing to patch": "scales_from",
    "layers match nothing": "no such layer",
    "bad expression": "regular expression",
    "scales dropped": "this model",
    "cut scales": "cut.safetensors",
    "scales of another model": "alien.safetensors",
}


@pytest.fixture(scope="module")
def told(contract, figure) -> dict:
    figures = contract("refusals")
    for name, sentence in figures["refusals"].items():
        figure(f"refusal, {name}: {sentence}")
    return figures


@pytest.mark.parametrize("node", SCHEMAS)
def test_schema(told, node):
    schema = told["schemas"][node]
    inputs, outputs = SCHEMAS[node]
    assert schema["ids"] == inputs
    assert sorted(schema["parameters"]) == sorted(inputs)
    assert schema["outputs"] == outputs
    assert schema["untold"] == []
    assert schema["aliases"] and schema["description"]


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(told, name):
    sentence = told["refusals"][name]
    assert REFUSALS[name] in sentence
    assert "\n" not in sentence
    assert not sentence.startswith(("nothing", "KeyError", "AttributeError", "TypeError", "RuntimeError"))


def test_progress(told):
    value, total = told["progress"]
    assert value == total > 1
    assert told["after"] <= 0.06


def test_interrupt_leaves_nothing_behind(told):
    assert told["interrupted"] == "InterruptProcessingException"
    assert told["modules_left"] <= 0
    assert told["files_left"] == []
    assert told["loads_again"] <= 0.06


@pytest.fixture(scope="module")
def all_in_one(contract) -> dict:
    return contract("all_in_one")


def test_all_in_one(all_in_one):
    assert all_in_one["error"] <= 0.06
    assert all_in_one["vae"] and all_in_one["pixels"] == 0
    assert not all_in_one["clip"]


def test_a_bare_diffusion_model_has_no_clip_and_no_vae(all_in_one):
    assert all_in_one["bare"] == [True, True]
