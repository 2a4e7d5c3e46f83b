"""One file, changed and read: refused in a sentence, or every weight as its codes say and every key accounted for."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from scaled_fp8.quant import Refused, read_checkpoint

from .changes import CHANGES, METHODS, Change, header_surgery
from .file import File
from .judgement import wrong
from .specimens import DIALECTS, Specimen, specimen

SPECIMENS = [specimen(dialect, number) for number, dialect in enumerate(DIALECTS)]


@dataclass
class Try:
    """A changed file on disk. main: what a reader is given; names: of the changes; unseen: no reader can see them."""

    specimen: Specimen
    file: File
    main: Path
    names: list[str]
    unseen: bool


def attempt(rng: random.Random, folder: Path) -> tuple[str, str]:
    """What was tried, and what is wrong ("" for nothing)."""
    made = changed(rng, folder)
    what, problem = outcome(made)
    shown = f"{made.specimen.dialect.name}: {', '.join(made.names)} in {made.main.name}: {problem}" if problem else ""
    return what, shown


def changed(rng: random.Random, folder: Path) -> Try:
    chosen = rng.choice(SPECIMENS)
    file = chosen.file.copy()
    changes: list[Change] = rng.choices(CHANGES, k=rng.choice((0, 1, 1, 1, 2, 3)))
    for change in changes:
        if file.tensors:
            change.apply(file, rng)
    names, unseen = [change.name for change in changes], any(change.unseen for change in changes)
    main, lie = written(chosen, file, folder, rng)
    return Try(chosen, file, main, names + [lie] * bool(lie), unseen)


def written(chosen: Specimen, file: File, folder: Path, rng: random.Random) -> tuple[Path, str]:
    """The file as one, in shards, or in a folder, and what is untrue about it."""
    for path in folder.iterdir():
        path.unlink()
    kind = rng.choice(("file", "file", "shards", "folder", "surgery", "link"))
    dialect, lie = chosen.dialect, ""
    main = folder / "model.safetensors"
    if dialect.aside and file.tensors:
        put_aside(file, folder / dialect.aside)
    if dialect.config:
        (folder / "config.json").write_text(json.dumps(dialect.config))
    if kind == "surgery" and file.tensors:
        main.write_bytes(header_surgery(file, rng))
        lie = "header"
    elif kind == "shards":
        main, lie = in_shards(file, folder, rng)
    else:
        main.write_bytes(file.raw())
    if kind == "link":
        (folder / "link.sft").symlink_to(main)
        main = folder / "link.sft"
    if kind == "folder":
        lie = sidecar(folder, rng) if not dialect.config else ""
        main = folder
    return main, lie


def put_aside(file: File, path: Path) -> None:
    scales = {key: entry for key, entry in file.tensors.items() if key.endswith(".weight_scale")}
    if 0 < len(scales) < len(file.tensors):
        path.write_bytes(File(scales).raw())
        file.tensors = {key: entry for key, entry in file.tensors.items() if key not in scales}


def sidecar(folder: Path, rng: random.Random) -> str:
    """A description that says something about another model."""
    name = rng.choice(("config.json", "quantization_config.json", "hf_quant_config.json", "model_qmap.json"))
    method = rng.choice(METHODS)
    said = rng.choice((
        {"a": 1}, {"quantization_config": {"quant_method": method, "weight_block_size": [64, 64]}},
        {"quant_method": method}, {"quantization": {"quant_algo": "FP8"}}, [1], {"quantization_config": None},
        {"blocks.0.attn.to_q": {"weights": "qint8", "activations": "none"}},
    ))  # fmt: skip
    (folder / name).write_text(json.dumps(said) if rng.random() < 0.9 else '{"quant')
    return f"{name} {said}"


def in_shards(file: File, folder: Path, rng: random.Random) -> tuple[Path, str]:
    """Shards and an index, half of the time with a lie; what the index does not let a reader reach leaves the file."""
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    where: dict[str, object] = {key: rng.choice(names) for key in file.tensors}
    shards = {name: File({k: file.tensors[k] for k in where if where[k] == name}) for name in names}
    shards[names[0]].metadata = file.metadata
    for name, shard in shards.items():
        (folder / name).write_bytes(shard.raw())
    lie = rng.choice(("", "", "", "omitted", "moved", "gone", "outside", "number", "ghost", "twice", "form"))
    key = rng.choice(list(where)) if where else ""
    if lie == "omitted":
        where.pop(key, None)
    elif lie in ("moved", "gone", "outside", "number", "ghost"):
        key = "ghost.weight" if lie == "ghost" else key
        lies = {"moved": rng.choice(names), "gone": "x.safetensors", "number": 7, "ghost": names[0]}
        where[key] = lies.get(lie, rng.choice(("../model.safetensors", f"{folder}/{names[0]}", "\0", "")))
    elif lie == "twice" and key:
        shard = shards[rng.choice(names)]
        shard.tensors[key] = file.tensors[key]
        for name, one in shards.items():
            (folder / name).write_bytes(one.raw())
    content = {"metadata": {"total_size": rng.choice((0, -1, 10**30))}, "weight_map": where}
    text = rng.choice(("[]", "{}", "{", '{"weight_map": []}', "\ufeff{}")) if lie == "form" else json.dumps(content)
    index = folder / "model.safetensors.index.json"
    index.write_text(text)
    reached = {str(name) for name in where.values()}
    file.tensors = {k: e for name in names if name in reached for k, e in shards[name].tensors.items()}
    return index, f"index {lie}" if lie else ""


##### What came of it


def outcome(made: Try) -> tuple[str, str]:
    try:
        checkpoint = read_checkpoint(made.main)
        problem = wrong(made, checkpoint)
    except Refused as refusal:
        return "refused", unprintable(str(refusal))
    except Exception as exception:
        return "raised", f"{type(exception).__name__}: {exception}"
    return "read", problem


def unprintable(sentence: str) -> str:
    return "" if sentence and sentence.isprintable() else f"is no printable sentence: {sentence!r}"
