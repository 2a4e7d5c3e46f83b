"""What a conversion leaves alone: its source in every form, what lies beside it, and other people's models."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import Refused, read_checkpoint
from scaled_fp8.quant.conversion.converter import Options, convert
from scaled_fp8.quant.files import atomic, sets, temporaries

INDEX = "model.safetensors.index.json"
SHARDED = Options(shard_size=20_000)


def save_model(path: Path, seed: int = 0, layers: int = 6) -> Path:
    generator = torch.Generator().manual_seed(seed)
    state = {f"blocks.{i}.q.weight": torch.randn(64, 64, generator=generator).bfloat16() for i in range(layers)}
    save_file(state, path, {"format": "pt"})
    return path


def save_foreign_set(folder: Path, stem: str = "model") -> Path:
    """Two shards and an index as any other tool writes them."""
    folder.mkdir(exist_ok=True)
    names = [f"{stem}-{i:05}-of-00002.safetensors" for i in (1, 2)]
    where = {}
    for i, name in enumerate(names):
        save_file({f"blocks.{i}.q.weight": torch.full((64, 64), i + 1.0).bfloat16()}, folder / name)
        where[f"blocks.{i}.q.weight"] = name
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 16384}, "weight_map": where}))
    return index


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def own_set(folder: Path) -> Path:
    """The shards of an earlier conversion of ours, alone in a folder."""
    folder.mkdir()
    convert(save_model(folder.parent / "original.safetensors"), folder / INDEX, "bfloat16", SHARDED)
    return folder


def test_shards_of_an_earlier_result_are_no_target_of_themselves(tmp_path: Path) -> None:
    folder = own_set(tmp_path / "m")
    before = files(folder)
    shard = next(name for name in before if name.startswith("model-00002"))
    for source in (folder, folder / INDEX, folder / shard):
        for target in (folder / INDEX, folder / "model.safetensors", folder / shard):
            for options in (SHARDED, Options()):
                with pytest.raises(Refused, match="another name"):
                    convert(source, target, "float16", options)
                assert files(folder) == before, (source.name, target.name)


BESIDE = {
    "config.json": b'{"architectures": ["x"]}',
    "hf_quant_config.json": b"{}",
    "model_map.pt": None,
    "fp8_scales.safetensors": None,
    "tokenizer.json": b"{}",
    "README.md": b"words",
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_a_source_is_no_target(tmp_path: Path, name: str) -> None:
    source = save_model(tmp_path / "model.safetensors")
    content = BESIDE[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    elif name.endswith(".pt"):
        torch.save({"other": torch.ones(())}, tmp_path / name)
    else:
        save_file({"other": torch.ones(())}, tmp_path / name)
    before = files(tmp_path)
    for options in (Options(), SHARDED):
        with pytest.raises(Refused, match="another name"):
            convert(source, tmp_path / name, "float16", options)
        assert files(tmp_path) == before


@pytest.mark.parametrize("target", [INDEX, "model.safetensors", "model-00001-of-00002.safetensors"])
@pytest.mark.parametrize("options", [Options(), SHARDED], ids=["one file", "shards"])
def test_another_model_s_shards_are_left_alone(tmp_path: Path, target: str, options: Options) -> None:
    save_foreign_set(tmp_path / "other")
    before = files(tmp_path / "other")
    with pytest.raises(Refused, match="another name"):
        convert(save_model(tmp_path / "m.safetensors"), tmp_path / "other" / target, "float16", options)
    assert files(tmp_path / "other") == before


def test_shards_without_an_index_keep_their_names(tmp_path: Path) -> None:
    source = save_model(tmp_path / "m.safetensors")
    names = [f"out-{i:05}-of-00003.safetensors" for i in (1, 3)]
    for name in names:
        save_model(tmp_path / name, 7)
    before = files(tmp_path)
    for _ in range(3):
        convert(source, tmp_path / "out.safetensors.index.json", "bfloat16", SHARDED)
        assert {name: data for name, data in files(tmp_path).items() if name in before} == before
        assert read_checkpoint(tmp_path / "out.safetensors.index.json").tensors.keys() == load_file(source).keys()
    assert len(files(tmp_path)) == len(before) + 4


def test_a_whole_model_is_not_hidden_by_shards_of_its_name(tmp_path: Path) -> None:
    source = save_model(tmp_path / "m.safetensors")
    save_model(tmp_path / "out.safetensors", 7)
    before = files(tmp_path)
    for target in ("out.safetensors", "out.safetensors.index.json"):
        with pytest.raises(Refused, match="another model is there"):
            convert(source, tmp_path / target, "bfloat16", SHARDED)
    with pytest.raises(Refused, match="another model is there"):
        convert(source, tmp_path / "out.safetensors.index.json", "bfloat16")
    assert files(tmp_path) == before


def test_results_of_ours_take_each_other_s_place_in_either_form(tmp_path: Path) -> None:
    source, index = save_model(tmp_path / "m.safetensors"), tmp_path / "out.safetensors.index.json"
    convert(source, index, "bfloat16", SHARDED)
    convert(source, tmp_path / "out.safetensors", "float16")
    assert set(files(tmp_path)) == {"m.safetensors", "out.safetensors"}
    os.unlink(tmp_path / "out.safetensors")
    # small enough for one file, then not any more, and back
    for size, count in ((10**6, 1), (20_000, 4), (10**6, 1)):
        convert(source, index, "float16", Options(shard_size=size))
        assert len(files(tmp_path)) == 1 + count
        only = index if count > 1 else tmp_path / "out.safetensors"
        assert all(t.dtype == torch.float16 for t in read_checkpoint(only).tensors.values())


def test_the_mark_does_not_travel(tmp_path: Path) -> None:
    """A copy under another name, and what is made of a result, are not taken for shards of ours."""
    folder = own_set(tmp_path / "m")
    convert(folder, tmp_path / "again.safetensors", "float16")
    os.rename(tmp_path / "again.safetensors", tmp_path / "model-00001-of-00001.safetensors")
    assert not sets.is_shard_of(tmp_path / INDEX, tmp_path / "model-00001-of-00001.safetensors")
    shard = next(folder.glob("model-00001*"))
    os.rename(shard, folder / shard.name.replace("model", "mine"))
    assert not sets.is_shard_of(folder / "mine.safetensors.index.json", folder / shard.name.replace("model", "mine"))


def test_an_index_that_names_what_is_not_ours_deletes_nothing(tmp_path: Path) -> None:
    source, folder = save_model(tmp_path / "m.safetensors"), own_set(tmp_path / "o")
    content = json.loads((folder / INDEX).read_text())
    save_model(folder / "precious.safetensors", 7)
    save_model(folder / "model-00009-of-00009.safetensors", 8)
    names = ["precious.safetensors", "model-00009-of-00009.safetensors", "../m.safetensors"]
    content["weight_map"] |= {f"x.{i}": name for i, name in enumerate(names)}
    (folder / INDEX).write_text(json.dumps(content))
    before = files(tmp_path) | files(folder)
    convert(source, folder / INDEX, "float16", SHARDED)
    after = files(tmp_path) | files(folder)
    assert all(after[Path(name).name] == before[Path(name).name] for name in names)


def test_a_batch_replaces_only_its_own_results(tmp_path: Path) -> None:
    from scaled_fp8.quant.cli import main

    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for name in ("a", "b"):
        save_model(tmp_path / "in" / f"{name}.safetensors")
    save_model(tmp_path / "out" / "b.safetensors", 7)
    before = files(tmp_path / "out")["b.safetensors"]
    for _ in range(2):
        assert main(["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--format", "float16"]) == 2
        assert files(tmp_path / "out")["b.safetensors"] == before
        assert load_file(tmp_path / "out" / "a.safetensors")["blocks.0.q.weight"].dtype == torch.float16
    # nor is one of its sources the place of another's result
    os.rename(tmp_path / "in" / "a.safetensors", tmp_path / "in" / "b.sft")
    before = files(tmp_path / "in")
    assert main(["convert", str(tmp_path / "in" / "*.sft"), str(tmp_path / "in"), "--format", "float16"]) == 2
    after = files(tmp_path / "in")
    assert json.loads(after.pop("scaled-fp8-manifest.json"))["files"]["b.sft"]["state"] == "refused"
    assert after == before


@pytest.mark.parametrize("kind", ["nameless", "named"])
@pytest.mark.parametrize("options", [Options(threads=1), Options(threads=1, shard_size=20_000)], ids=["one", "shards"])
def test_runs_at_once_on_one_target_both_end_well(
    tmp_path: Path, kind: str, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "named":
        monkeypatch.delattr(os, "O_TMPFILE")
    source = save_model(tmp_path / "m.safetensors")
    target = tmp_path / ("out.safetensors.index.json" if options.shard_size else "out.safetensors")
    with ThreadPoolExecutor(6) as pool:
        for run in [pool.submit(convert, source, target, "float16", options) for _ in range(16)]:
            run.result()
    named = {path.name for path in sets.named_by(target)}
    assert set(files(tmp_path)) == {"m.safetensors", target.name} | named
    assert read_checkpoint(target).tensors.keys() == load_file(source).keys()


@pytest.mark.parametrize("kind", ["nameless", "named"])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604])
def test_who_may_read_stays_the_same(tmp_path: Path, kind: str, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "named":
        monkeypatch.delattr(os, "O_TMPFILE")
    source = save_model(tmp_path / "m.safetensors")
    for name, options in (("a.safetensors", Options()), ("b.safetensors.index.json", SHARDED)):
        convert(source, tmp_path / name, "float16", options)
        os.chmod(tmp_path / name, mode)
        convert(source, tmp_path / name, "bfloat16", options)
        written = {tmp_path / name, *sets.named_by(tmp_path / name)}
        assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {mode}


def plans(index: Path) -> dict[str, Callable[[], bytes]]:
    shards = [path.name for path in index.parent.glob("*.safetensors")]
    return {
        "used": lambda: json.dumps({"index": index.name, "shards": shards}).encode(),
        "elsewhere": lambda: json.dumps({"index": index.name, "shards": ["../original.safetensors"]}).encode(),
        "other index": lambda: json.dumps({"index": "x.safetensors.index.json", "shards": shards}).encode(),
        "no index": lambda: json.dumps({"index": "../x", "shards": shards}).encode(),
        "odd": lambda: b'{"index": 3, "shards": [null, {}]}',
        "deep": lambda: b"[" * 100_000,
    }


@pytest.mark.parametrize("kind", plans(Path("x")))
def test_a_plan_that_lies_in_a_folder_deletes_no_model(tmp_path: Path, kind: str) -> None:
    folder = own_set(tmp_path / "m")
    (folder / temporaries.TEMPORARY.format("1-2")).write_bytes(plans(folder / INDEX)[kind]())
    before = {name: data for name, data in files(folder).items() if not name.startswith(".")}
    atomic.remove_stale(folder)
    assert files(folder) == before and (tmp_path / "original.safetensors").exists()


def test_pipes_and_links_among_the_temporaries_are_not_touched(tmp_path: Path) -> None:
    source, target = save_model(tmp_path / "m.safetensors"), tmp_path / "out.safetensors"
    os.mkfifo(tmp_path / temporaries.TEMPORARY.format("1-2"))
    os.symlink(source, tmp_path / temporaries.TEMPORARY.format("1-3"))
    os.mkfifo(tmp_path / "other.safetensors.index.json")
    os.mkfifo(tmp_path / "out.safetensors.index.json")
    with pytest.raises(Refused, match="not a regular file"):
        convert(source, tmp_path / "out.safetensors.index.json", "float16", SHARDED)
    os.unlink(tmp_path / "out.safetensors.index.json")
    convert(source, target, "float16")
    assert source.exists() and load_file(target)


def test_a_name_too_long_or_odd_is_a_sentence(tmp_path: Path) -> None:
    source = save_model(tmp_path / "m.safetensors")
    for name in ("x" * 300 + ".safetensors", "a\0b.safetensors"):
        for options in (Options(), SHARDED):
            with pytest.raises(Refused, match="cannot be"):
                convert(source, tmp_path / name, "float16", options)
    assert os.listdir(tmp_path) == ["m.safetensors"]
