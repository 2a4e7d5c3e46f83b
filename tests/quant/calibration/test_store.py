"""Calibrations as files: sums of runs, another model's, damaged ones; watching changes nothing."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import Refused
from scaled_fp8.quant.calibration.store import (
    Factored,
    Facts,
    Record,
    read_calibration,
    sample_of,
    save_calibration,
    write_calibration,
)
from scaled_fp8.quant.calibration.watching import Watch
from torch import Tensor, nn


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64))


def linears(module: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}


def watched(module: nn.Module, x: Tensor, watch: Watch) -> Tensor:
    with watch.listening(linears(module)):
        return module(x)


def unlike(rows: int) -> Tensor:
    """Rows ``[rows, 64]`` of which no two point the same way, so that each counts once."""
    return 8 * torch.linalg.qr(torch.randn(64, rows)).Q.T.contiguous()


def watch_of(module: nn.Module, limit: int = 1 << 30) -> Watch:
    return Watch({name: layer.in_features for name, layer in linears(module).items()}, limit)


def records(module: nn.Module, watch: Watch) -> dict[str, Record]:
    return {
        name: Record(tuple(layer.weight.shape), sample_of(layer.weight), watch.moments[name])
        for name, layer in linears(module).items()
    }  # type: ignore[misc]


def saved(module: nn.Module, path: Path, x: Tensor) -> None:
    watch = watch_of(module)
    watched(module, x, watch)
    save_calibration(path, records(module, watch), watch.facts + Facts(prompts=1))


def test_watching_changes_nothing_and_leaves_nothing(module: nn.Module) -> None:
    x, watch = unlike(35).view(1, 35, 64), watch_of(module)
    want = module(x)
    assert torch.equal(watched(module, x, watch), want)
    assert not any(layer._forward_pre_hooks for layer in linears(module).values())
    rows = x.reshape(-1, 64)
    torch.testing.assert_close(watch.moments["0"].squares[0], (rows.T @ rows).detach(), rtol=1e-4, atol=1e-4)
    watched(module, x, watch)
    assert watch.moments["0"].rows == 70 and watch.facts.steps == 2


def test_a_run_that_fails_leaves_nothing(module: nn.Module) -> None:
    watch = watch_of(module)
    with pytest.raises(RuntimeError), watch.listening(linears(module)):
        module(torch.randn(3, 65))
    assert not any(layer._forward_pre_hooks for layer in linears(module).values())
    assert watch.facts.steps == 0


def test_another_process_reads_the_same_file(module: nn.Module, tmp_path: Path) -> None:
    saved(module, tmp_path / "c.safetensors", torch.randn(40, 64))
    known = read_calibration(tmp_path / "c.safetensors")
    again = pickle.loads(pickle.dumps(known))
    assert torch.equal(again["0"].moments.squares, known["0"].moments.squares)
    assert copy.deepcopy(known) is known and repr(again) == repr(known)


def test_runs_add_up_in_the_file(module: nn.Module, tmp_path: Path) -> None:
    a, b = unlike(40), unlike(30)
    saved(module, tmp_path / "c.safetensors", a)
    saved(module, tmp_path / "c.safetensors", b)
    found, both = read_calibration(tmp_path / "c.safetensors"), torch.cat([a, b])
    torch.testing.assert_close(found["0"].moments.squares[0], both.T @ both, rtol=1e-4, atol=1e-4)
    assert found["0"].moments.rows == 70
    assert found.facts == Facts(2, 2)
    assert found["model.diffusion_model.2"].shape == (64, 96)


def test_held_out_images_are_kept_and_add_up(module: nn.Module, tmp_path: Path) -> None:
    path, kept = tmp_path / "c.safetensors", []
    for seed in (0, 1):
        watch = watch_of(module)
        watched(module, torch.randn(8, 20, 64, generator=torch.Generator().manual_seed(seed)), watch)
        kept.append(watch.moments["0"].held_out)
        save_calibration(path, records(module, watch), watch.facts)
    torch.testing.assert_close(read_calibration(path)["0"].moments.held_out, kept[0] + kept[1])


@pytest.mark.parametrize("damage", [torch.full((64, 64), torch.nan), torch.zeros(64, 32), torch.zeros(63, 64)])
def test_damaged_held_out_images_are_refused(module: nn.Module, tmp_path: Path, damage: Tensor) -> None:
    path = tmp_path / "c.safetensors"
    saved(module, path, torch.randn(9, 64))
    header = {"scaled_fp8_calibration": '{"version": 1, "steps": 1, "prompts": 1}'}
    save_file(load_file(path) | {"0.held_out": damage}, path, header)
    with pytest.raises(Refused, match=r"c\.safetensors: .*calibrate again"):
        read_calibration(path)["0"]


def test_of_another_model_or_shape_is_refused(module: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    saved(module, path, torch.randn(9, 64))
    known, weight = read_calibration(path), linears(module)["0"].weight
    assert known.of("0", weight.half()) is not None
    assert known.of("5", weight) is None
    with pytest.raises(Refused, match=r"is \[96, 64\] there and \[96, 32\] in this model"):
        known.of("0", weight[:, :32])
    with pytest.raises(Refused, match="had other weights"):
        known.of("0", torch.randn(96, 64))
    with pytest.raises(Refused, match="none of this model's layers"):
        known.check(["blocks.0.q", "blocks.0.k"])
    other = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64))
    with pytest.raises(Refused, match="of another model"):
        saved(other, path, torch.randn(9, 64))
    assert read_calibration(path).facts.steps == 1


@pytest.mark.parametrize("damage", ["nan", "shape", "missing", "square", "header", "newer"])
def test_damaged_files_are_refused(module: nn.Module, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.safetensors"
    saved(module, path, torch.randn(9, 64))
    tensors, header = load_file(path), {"scaled_fp8_calibration": '{"version": 1, "steps": 1, "prompts": 1}'}
    tensors["0.squares"][0, 3, 3] = torch.nan if damage == "nan" else 1.0
    changes = {"shape": ("0.shape", torch.tensor([96, 640])), "square": ("0.squares", torch.zeros(1, 64, 32))}
    tensors |= dict([changes[damage]]) if damage in changes else {}
    if damage == "missing":
        del tensors["0.amax"]
    header |= {
        "header": {"scaled_fp8_calibration": "[]"},
        "newer": {"scaled_fp8_calibration": '{"version": 9, "steps": 1, "prompts": 1}'},
    }.get(damage, {})
    save_file(tensors, path, header)
    with pytest.raises(Refused, match=r"c\.safetensors: "):
        read_calibration(path)["0"]


def test_one_that_knows_no_layer_is_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "c.safetensors", {"scaled_fp8_calibration": '{"version": 1, "steps": 1, "prompts": 1}'})
    with pytest.raises(Refused, match=r"c\.safetensors: knows no layer; calibrate again"):
        read_calibration(tmp_path / "c.safetensors")


def test_an_addition_that_is_cancelled_leaves_the_file_as_it_was(
    module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.safetensors"
    saved(module, path, torch.randn(8, 64))
    whole, calls = path.read_bytes(), []

    def cancelled(self: Record, name: str) -> dict[str, Tensor]:
        calls.append(name)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return tensors(self, name)

    tensors = Record.tensors
    monkeypatch.setattr(Record, "tensors", cancelled)
    with pytest.raises(KeyboardInterrupt):
        saved(module, path, torch.randn(8, 64))
    assert path.read_bytes() == whole
    assert [one.name for one in tmp_path.iterdir()] == ["c.safetensors"]


def test_blocks_are_told(module: nn.Module) -> None:
    wide = Watch({"a": 1024, "b": 128}, limit=1)
    assert wide.blocks == "1 layers whole, 1 in blocks of 256 inputs"
    assert watch_of(module).blocks == "2 layers whole"
    assert watch_of(module).nbytes == 4 * (64 * 64 + 96 * 96 + 64 * (64 + 96))


def test_several_threads_add_up_and_other_layers_are_not_seen(module: nn.Module) -> None:
    watch, parts = watch_of(module), [unlike(50) for _ in range(8)]

    def see(part: Tensor) -> None:
        with torch.inference_mode(bool(part[0, 0] > 0)):
            watch.see("0", part * 1)
            watch.see("another", part)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(see, parts))
    rows = torch.cat(parts)
    torch.testing.assert_close(watch.moments["0"].squares[0], rows.T @ rows, rtol=1e-4, atol=1e-3)
    assert watch.moments["0"].rows == 400 and list(watch.moments) == ["0"]


def test_of_a_sparse_tensor_the_features_are_seen() -> None:
    class Sparse(SimpleNamespace):
        """As Trellis2's Linears take them."""

    class Takes(nn.Linear):
        def forward(self, x: Sparse) -> Tensor:  # type: ignore[override]
            return super().forward(x.feats)

    linear, rows = Takes(64, 8), unlike(5)
    watch = Watch({"0": 64})
    with watch.listening({"0": linear}):
        linear(Sparse(feats=rows))
    torch.testing.assert_close(watch.moments["0"].squares[0], rows.T @ rows, rtol=1e-4, atol=1e-4)


def test_factors_are_added_to_what_is_known(module: nn.Module, tmp_path: Path) -> None:
    saved(module, tmp_path / "c.safetensors", torch.randn(40, 64))
    known = read_calibration(tmp_path / "c.safetensors")
    write_calibration(tmp_path / "d.safetensors", Factored(known, {"diffusion_model.0": 0.5}), known.facts)
    found = read_calibration(tmp_path / "d.safetensors")
    assert found["0"].factor == 0.5 and found["2"].factor is None and known["0"].factor is None
    assert torch.equal(found["0"].moments.squares, known["0"].moments.squares) and found.facts == known.facts


def test_levels_are_kept_where_runs_are_added(module: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    saved(module, path, torch.randn(40, 64))
    before = read_calibration(path)
    assert before.facts.levels == {} and before["0"].levels == {}
    facts = replace(before.facts, levels={"int4": 0.9})
    write_calibration(tmp_path / "d.safetensors", Factored(before, {"0": 0.5}), facts)
    saved(module, tmp_path / "d.safetensors", torch.randn(40, 64))
    found = read_calibration(tmp_path / "d.safetensors")
    assert found.facts.levels == found["0"].levels == {"int4": 0.9}
    assert found.facts.steps == 2 * before.facts.steps
