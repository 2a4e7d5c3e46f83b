"""Quantized in the graph by each method, against the bf16 model; saved, and loaded by core without this pack."""

from __future__ import annotations

import pytest

# method, granularity -> the most that the latents may be off.
# Fake-quantized in float32: FP8 0.019 to 0.026, INT8 0.005 to 0.008.
BOUNDS = {
    ("fp8-dynamic", "per-tensor"): 0.03,
    ("fp8-dynamic", "per-row"): 0.03,
    ("fp8-dynamic", "block"): 0.03,
    ("fp8-weight-only", "per-tensor"): 0.03,
    ("int8", "per-row"): 0.012,
    ("int8-convrot", "per-row"): 0.012,
    ("mxfp8", "per-tensor"): 0.03,
    # four bits: an eighth of FP8's steps at best
    ("int4", "per-tensor"): 0.12,
    ("nvfp4", "per-tensor"): 0.15,
}
# what core 0.33 does with the activations of a per-tensor FP8 layer is its own: on a CPU it upcasts
UPCAST_BY_CORE = "fp8-dynamic per-tensor"


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("latents")


@pytest.fixture(scope="module")
def figures(contract, latents) -> dict:
    return contract("quantize", methods=list(BOUNDS), latents=str(latents), compute={"fp8-weight-only": "upcast"})


@pytest.fixture(scope="module")
def core(contract, figures, latents) -> dict:
    files = [found["file"] for found in figures["methods"].values() if "file" in found]
    return contract("quantized_by_core", files=files, latents=str(latents))


@pytest.mark.parametrize("method", BOUNDS, ids=" ".join)
def test_latents_are_those_of_the_bf16_model(figures, figure, method):
    got = figures["methods"][" ".join(method)]
    figure(f"QuantizeModel {' '.join(method)}: relative error of the latents {got['error']:.4f}")
    assert got["error"] <= BOUNDS[method]
    assert "double_blocks.0.img_attn.qkv" in got["report"]


def test_the_model_it_came_from_is_untouched(figures):
    assert figures["untouched"]
    assert figures["computed again"] == 0


def test_a_saved_file_loads_with_this_pack_as_it_was_in_the_graph(figures):
    again = {name: found["again"] for name, found in figures["methods"].items() if "again" in found}
    assert len(again) == 7
    assert max(again.values()) <= 1e-6, again


def test_a_saved_file_loads_in_core_without_this_pack(core, figures, figure):
    assert not core["pack"]
    saved = {name: found["file"] for name, found in figures["methods"].items() if "file" in found}
    assert saved
    for name, file in saved.items():
        off = core["errors"][file]
        figure(f"saved {name}, loaded by core without the pack: {off:.2g} from the latents in the graph")
        assert off <= (0.03 if name == UPCAST_BY_CORE else 1e-5), name


def test_refusals_are_one_sentence(figures):
    assert "not a regular expression" in figures["keep"]
    assert "No layer of this model is left to quantize" in figures["nothing"]
    assert "loads only with this pack" in figures["unsaveable"]
    assert all("\n" not in figures[name] for name in ("keep", "nothing", "unsaveable"))


def test_quantized_layers_are_recognised_and_left_alone(figures):
    rows = [line for line in figures["twice"].splitlines() if line.startswith("double_blocks.0.img_mlp.0 ")]
    assert "kept" in rows[0]
    assert "quantized to" in rows[0]
    assert "1 of" not in rows[0]
