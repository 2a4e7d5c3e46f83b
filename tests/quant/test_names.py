"""One table of prefixes: whoever strips one strips them all, and none is taken for a part of a name."""

from __future__ import annotations

import pytest
from scaled_fp8.quant import names
from scaled_fp8.quant.checkpoint.metadata import Clues
from scaled_fp8.quant.nn.matching import candidates
from scaled_fp8.quant.quality.comparison import prefixes
from scaled_fp8.quant.recipes.policy import bare_name
from torch import nn

LAYER = "double_blocks.0.img_attn.qkv"
# as they stand in published files: what is before the layer's name, and the component that it says
FILES = {
    "model.diffusion_model.": "transformer",
    "unet.": "transformer",
    "net.": "transformer",
    "first_stage_model.": "vae",
    "vae.": "vae",
    "text_encoders.t5xxl.transformer.": "encoder",
    "conditioner.embedders.1.model.": "encoder",
    "cond_stage_model.clip_l.transformer.": "encoder",
    "model.": None,
    "_orig_mod.": None,
    "transformer.": None,
}


@pytest.mark.parametrize("prefix", FILES)
def test_a_prefix_is_known_whole(prefix):
    assert names.prefix_of(prefix + LAYER) == prefix
    assert names.without_prefixes(prefix + LAYER) == LAYER
    assert names.component_of(prefix) == FILES[prefix]
    assert [*names.prefixes_of(prefix + LAYER)][0] == "" and prefix in names.prefixes_of(prefix + LAYER)


@pytest.mark.parametrize("prefix", names.MODEL)
def test_everyone_knows_a_models_prefix(prefix):
    linear = nn.Linear(2, 2)
    assert candidates(prefix + LAYER, {LAYER: linear}) == candidates(LAYER, {prefix + LAYER: linear}) == [linear]
    assert bare_name(f"{prefix}{LAYER}.weight") == LAYER
    assert Clues({LAYER: {"format": "x"}}).marker(prefix + LAYER) == {"format": "x"}
    assert prefix in prefixes({prefix + LAYER: lambda: None, "other": lambda: None})


@pytest.mark.parametrize("name", ["modeling.layer", "network.0", "unet_blocks.0", "vae_in", "text_model.layers.0"])
def test_what_only_begins_alike_stays(name):
    assert names.without_prefixes(name) == names.without_model(name) == name


def test_the_longest_prefix_of_a_model_is_tried_first():
    assert names.without_model("model.diffusion_model.x") == "x"
    assert all(not b.startswith(a) for i, a in enumerate(names.MODEL) for b in names.MODEL[i + 1 :])
