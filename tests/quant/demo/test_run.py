"""The embedded demonstration: it ships whole, and shows what it says."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scaled_fp8.quant.demo import model as demo_model
from scaled_fp8.quant.demo import run as demo
from scaled_fp8.quant.errors import Refused


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[demo.Demo, str]:
    return demo.run(tmp_path_factory.mktemp("demo") / "new" / "folder")


def test_without_scales_noise_with_them_the_original(shown):
    naive, ours = shown[0].images
    assert naive.relative > 0.8
    assert ours.relative < 0.05


def test_every_block_linear_is_scaled_and_close(shown):
    layers = shown[0].verdict["layers"]
    assert [layer["decision"] for layer in layers] == ["scaled"] * 6 * demo_model.BLOCKS
    # e4m3 rounds to three mantissa bits: 2 ** -4 at most, about 0.026 in the mean square
    assert all(0.02 < error.relative < 0.03 for error in shown[0].layers)
    assert len(shown[0].layers) == len(layers)


def test_restore_leaves_what_was_there(shown):
    assert shown[0].restored


def test_the_file_is_in_ltx_dialect_without_marker(shown):
    tensors = load_file(shown[0].checkpoint)
    scales = [name for name in tensors if name.endswith(".weight_scale")]
    assert len(scales) == 6 * demo_model.BLOCKS
    for name in scales:
        layer = name.removesuffix(".weight_scale")
        assert tensors[f"{layer}.weight"].dtype == torch.float8_e4m3fn
        assert tensors[f"{layer}.input_scale"].shape == tensors[name].shape == ()
        assert layer.startswith("model.diffusion_model.transformer_blocks.")
    assert not [name for name in tensors if "comfy_quant" in name or "scaled_fp8" in name]


def test_the_picture_is_three_equal_panels(shown):
    picture = Image.open(shown[0].picture)
    assert picture.width > 1200
    # white paper and black tiles on the left, in the middle and on the right
    thirds = [picture.crop((i * picture.width // 3, 0, (i + 1) * picture.width // 3, picture.height)) for i in range(3)]
    assert [third.getextrema() for third in thirds] == [(0, 255)] * 3


def test_the_tables_name_dialect_and_layers(shown):
    assert "LTX" in shown[1]
    assert "transformer_blocks.3.ff.proj_out" in shown[1]


def test_main_prints_one_json_object(tmp_path, capsys):
    assert demo.main(tmp_path, as_json=True) == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 6 * demo_model.BLOCKS


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(Refused, match="taken"):
        demo.run(tmp_path / "taken")


def test_the_weights_are_small_enough_to_ship():
    assert demo.ORIGINAL.stat().st_size < 2e6


def test_patches_are_undone():
    image = torch.randn(3, 8, 8)
    assert torch.equal(demo_model.unpatched(demo_model.patches(image)), image)
