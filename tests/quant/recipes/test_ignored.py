"""Lists of ignored layers: a user's names, and those of a checkpoint's own config."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from scaled_fp8 import quant
from scaled_fp8.quant.cli import main
from scaled_fp8.quant.recipes.ignored import KEYS, ignored_by
from scaled_fp8.quant.recipes.policy import IGNORED, Policy
from torch import nn

NAMES = ["blocks.0.q", "blocks.0.mlp.up", "blocks.10.q", "model.diffusion_model.blocks.1.q", "lm_head"]
KEPT = {
    "blocks.0": NAMES[:2],
    "blocks.1": [NAMES[3]],
    "blocks.*.q": [NAMES[0], NAMES[2], NAMES[3]],
    "model.diffusion_model.blocks.1.q": [NAMES[3]],
    "blocks.0.q.weight": [NAMES[0]],
    "re:.*q$": [NAMES[0], NAMES[2], NAMES[3]],
    "re:blocks[.]0": NAMES[:2],
    "q": [],
}


@pytest.mark.parametrize(("ignored", "kept"), KEPT.items())
def test_a_name_stands_for_the_layer_and_all_below_it(ignored: str, kept: list[str]) -> None:
    policy = Policy(quant.FORMATS["float8_e4m3fn"], quant.PerRow(), ignored=(ignored,))
    assert [name for name in NAMES if policy.decide(name, (64, 64)).reason == IGNORED] == kept


@pytest.mark.parametrize("ignored", ["re:(", r"re:(a)\1", "re:(?=a)"])
def test_what_is_no_expression_or_cannot_be_bounded_is_refused(ignored: str) -> None:
    with pytest.raises(quant.Refused, match="ignored layer"):
        Policy(quant.FORMATS["float8_e4m3fn"], quant.PerRow(), ignored=(ignored,))


def test_a_downloads_expression_takes_no_longer_than_another() -> None:
    policy = Policy(quant.FORMATS["float8_e4m3fn"], quant.PerRow(), ignored=("re:(a+)+$", "re:.*.*.*.*x"))
    assert policy.decide("a" * 200 + "b", (64, 64)).quantize


@pytest.mark.parametrize("key", KEYS)
def test_every_producers_list_is_read(key: str) -> None:
    assert ignored_by({"quant_method": "fp8", key: ["a", "b.*"]}) == ("a", "b.*")
    assert ignored_by({key: "none"}) == ()


def model() -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(64, 64, bias=False) for name in ("first", "second", "third")})


def test_a_modules_own_config_and_the_users_list_are_both_honoured() -> None:
    module = model()
    module.config = SimpleNamespace(quantization_config={"modules_to_not_convert": ["third"]})
    _, stats = quant.quantize_component(module, "int8", backend="patched", ignored_layers=["first"])
    assert stats.quantized == ("second",)
    assert stats["skipped"] == {"first": IGNORED, "third": IGNORED}


def test_convert_honours_the_files_own_list_and_the_users(tmp_path: Path) -> None:
    tensors = {f"{name}.weight": torch.randn(64, 64).bfloat16() for name in ("first", "second", "third")}
    config = {"quantization_config": json.dumps({"ignore": ["third"]})}
    save_file(tensors, tmp_path / "a.safetensors", config)
    command = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"), "--format", "int8"]
    assert main([*command, "--ignore", "first"]) == 0
    assert list(quant.read_checkpoint(tmp_path / "b.safetensors")) == ["second"]
