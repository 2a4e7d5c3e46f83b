"""Conversions between any two names of a folder full of models: done as asked, or refused; nothing else changes."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scaled_fp8.quant import Refused
from scaled_fp8.quant.conversion.batch import is_batch, is_into_folder, run_batch, run_one
from scaled_fp8.quant.conversion.converter import Options
from scaled_fp8.quant.conversion.jobs import Work
from scaled_fp8.quant.conversion.manifest import MANIFEST
from scaled_fp8.quant.conversion.request import Request

from .file import Entry, File, f32, parsed
from .judgement import error
from .reading import SPECIMENS, unprintable
from .specimens import DIALECTS, Specimen, multiplied, parts_of, specimen

MARK = "scaled_fp8_result"
NOBODY = 65534
FORMATS = {"bfloat16": 0.005, "float32": 1e-5, "float16": 0.002, "float8_e4m3fn": 0.06, "int8": 0.03}
PLAIN = [s for s in SPECIMENS if s.dialect.name in ("bf16", "ltx", "rows", "plain cast", "marked")]
OTHER = specimen(DIALECTS[-1], 99)
Shot = dict[str, object]  # path -> what is there


@dataclass(frozen=True)
class Try:
    source: str
    target: str
    format: str
    options: Options
    limit: int  # bytes of a file, 0 for none
    nobody: bool  # without root's rights
    model: Specimen


def attempt(rng: random.Random, folder: Path) -> tuple[str, str]:
    """What came of a conversion, and what is wrong ("" for nothing)."""
    model = rng.choice(PLAIN)
    fill(folder, model, rng)
    made = asked(rng, folder, model)
    before = shot(folder)
    what, problem = run(made, folder)
    after = shot(folder)
    problem = problem or (lost(made, folder, before, after) if what == "converted" else changed(before, after))
    released(folder)
    shown = f"{made.source} -> {made.target} as {made.format}, {made.options.shard_size}, {made.limit}: {problem}"
    return what, shown if problem else ""


##### What lies there


def fill(folder: Path, model: Specimen, rng: random.Random) -> None:
    """The model alone, in shards and in a folder; other models, results of our own, links, descriptions, rubbish."""
    emptied(folder)
    folder.chmod(0o777)
    (folder / "m.safetensors").write_bytes(model.file.raw())
    in_two(folder, "s", model.file, "")
    in_two(folder, "ours", OTHER.file, "ours")
    (folder / "other.safetensors").write_bytes(OTHER.file.raw())
    (folder / "result.safetensors").write_bytes(File(OTHER.file.tensors, {MARK: "result"}).raw())
    (folder / "notes.txt").write_text("mine")
    (folder / "d").mkdir()
    (folder / "d" / "diffusion_pytorch_model.safetensors").write_bytes(model.file.raw())
    (folder / "d" / "config.json").write_text('{"a": 1}')
    (folder / "e").mkdir()
    (folder / "here").symlink_to(folder, target_is_directory=True)
    (folder / "link.safetensors").symlink_to("m.safetensors")
    (folder / "stray.safetensors").symlink_to("other.safetensors")
    os.link(folder / "m.safetensors", folder / "hard.safetensors")
    if rng.random() < 0.3:
        plan = {
            "index": "s.safetensors.index.json",
            "shards": ["m.safetensors", "../x", "ours-00001-of-00002.safetensors"],
        }
        (folder / ".scaled-fp8-1-aa.tmp").write_text(json.dumps(plan))
    if rng.random() < 0.2:
        os.chmod(folder / "e", 0o555)
    if rng.random() < 0.2:
        os.chmod(folder / rng.choice(("other.safetensors", "m.safetensors", "result.safetensors")), 0o400)


def in_two(folder: Path, stem: str, file: File, mark: str) -> None:
    """Two shards and their index, as ours where mark says so."""
    names = [f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    keys = sorted(file.tensors)
    said = {MARK: mark} if mark else {}
    for i, name in enumerate(names):
        shard = File({k: file.tensors[k] for k in keys[i::2]}, file.metadata | said)
        (folder / name).write_bytes(shard.raw())
    content = {"metadata": said, "weight_map": {k: names[i % 2] for i, k in enumerate(keys)}}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(content))


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
            emptied(path)
            path.rmdir()
        else:
            path.unlink()


def released(folder: Path) -> None:
    (folder / "e").chmod(0o755)


SOURCES = ("m.safetensors", "s.safetensors.index.json", "d", "link.safetensors", "hard.safetensors",
           "here/m.safetensors",
           "e/../m.safetensors", "./m.safetensors", "d/diffusion_pytorch_model.safetensors",
           "s-00001-of-00002.safetensors")  # fmt: skip
TARGETS = (
    "new.safetensors", "new.safetensors.index.json", "e/new.safetensors", "e/new.safetensors.index.json", "new.sft",
    "m.sft", "m.safetensors.index.json", "s.safetensors", "ours.safetensors", "ours.safetensors.index.json",
    "result.safetensors", "result.safetensors.index.json", "other.safetensors", "other.safetensors.index.json",
    "stray.safetensors", "config.json", "d/config.json", "notes.txt", "fp8_scales.safetensors",
    "d/fp8_scales.safetensors", "e/",
    "gone/new.safetensors", "here/new.safetensors", "here/other.safetensors", "ours-00001-of-00002.safetensors",
    "s-00002-of-00002.safetensors", "d/model.safetensors", "new", "new.pt", ".new.safetensors",
    "né w\u202e.safetensors",
    "n" * 300 + ".safetensors", "\0.safetensors", "",
)  # fmt: skip


def asked(rng: random.Random, folder: Path, model: Specimen) -> Try:
    source = rng.choice(SOURCES)
    target = rng.choice((*TARGETS, *SOURCES)) if rng.random() < 0.8 else "new.safetensors"
    size = rng.choice((None, None, 2000, 9000, 10**7))
    return Try(
        source, target, rng.choice(list(FORMATS)), Options(1, rng.choice(("sample", "all")), size),
        rng.choice((0, 0, 0, 100, 5000, 20000)), rng.random() < 0.3, model,
    )  # fmt: skip


##### Running it


def run(made: Try, folder: Path) -> tuple[str, str]:
    source, target = f"{folder}/{made.source}", f"{folder}/{made.target}"
    try:
        with narrow(made, folder):
            if is_batch([source], target):
                batch = run_batch([source], target, Work(Request(made.format), made.options))
                refused = "; ".join((batch.said("refused") | batch.said("failed")).values())
                return ("refused", unprintable(refused)) if refused else ("converted", "")
            run_one(source, target, Work(Request(made.format), made.options))
    except Refused as refusal:
        return "refused", unprintable(str(refusal))
    except Exception as exception:
        return "raised", f"{type(exception).__name__}: {exception}"
    return "converted", ""


@contextmanager
def narrow(made: Try, folder: Path) -> Iterator[None]:
    """Little room for a file, or few rights."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    root = made.nobody and os.geteuid() == 0
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (made.limit or hard, hard))
        if root:
            os.seteuid(NOBODY)
        yield
    finally:
        if root:
            os.seteuid(0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, before)


##### What is there afterwards


def shot(folder: Path) -> Shot:
    """Every file and link below a folder with its content and rights; temporaries and manifests are no matter."""
    found: Shot = {}
    for home, folders, names in os.walk(folder):
        links = (name for name in folders if Path(home, name).is_symlink())
        for name in (*links, *names):
            path = Path(home, name)
            if not (name.startswith(".scaled-fp8-") or name == MANIFEST):
                found[str(path.relative_to(folder))] = seen(path)
    return found


def seen(path: Path) -> object:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    return stat.S_IMODE(mode), path.read_bytes() if stat.S_ISREG(mode) else b""


def changed(before: Shot, after: Shot) -> str:
    """What a refusal left otherwise than it was."""
    names = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return f"a refusal changed {names}" if names else ""


def lost(made: Try, folder: Path, before: Shot, after: Shot) -> str:
    """What changed that the target does not name, or what the result lacks."""
    main = result(made, folder)
    if not main.is_file():
        return f"{main.name} is not there"
    new = {*reached(main), main}
    allowed = {str(path.resolve().relative_to(folder.resolve())) for path in new} | replaced(main, folder, before)
    names = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if strange := sorted(names - allowed):
        return f"changed {strange}"
    return wrong(made, main)


def result(made: Try, folder: Path) -> Path:
    """Where the model is now: the target, one file for an index of one shard, an index for a file in several."""
    target = Path(f"{folder}/{made.target}")
    if is_batch([f"{folder}/{made.source}"], f"{folder}/{made.target}"):
        name = "diffusion_pytorch_model" if made.source == "d" else stem(Path(made.source).name)
        target /= f"{name}.safetensors"
    elif is_into_folder(f"{folder}/{made.target}"):
        target /= f"{stem(Path(made.source).name)}.safetensors"
    home = Path(os.path.realpath(target.parent))
    index = home / f"{stem(target.name)}.safetensors.index.json"
    whole = home / (f"{stem(target.name)}.safetensors" if target.name.endswith(".index.json") else target.name)
    fresh = [path for path in (index, whole) if path.is_file()]
    return max(fresh, key=lambda path: path.lstat().st_mtime_ns) if fresh else whole


def stem(name: str) -> str:
    return name.removesuffix(".index.json").removesuffix(".safetensors").removesuffix(".sft")


def reached(main: Path) -> set[Path]:
    if not main.name.endswith(".json"):
        return set()
    return {main.with_name(name) for name in json.loads(main.read_text())["weight_map"].values()}


def replaced(main: Path, folder: Path, before: Shot) -> set[str]:
    """What an earlier result of this name was, by the marks that were in it."""
    home = main.parent.resolve().relative_to(folder.resolve())
    marked = set()
    for name, found in before.items():
        if Path(name).parent != home or not isinstance(found, tuple) or not found[1]:
            continue
        ours = name.endswith((".safetensors", ".sft")) and parsed(found[1]).metadata.get(MARK) == stem(main.name)
        index = name.endswith(".index.json") and json.loads(found[1])["metadata"].get(MARK) == stem(main.name)
        marked |= {name} if ours or index else set()
    return marked


def wrong(made: Try, main: Path) -> str:
    """A layer that is not the source's within its format's rounding, or a key that is gone."""
    shards = [parsed(path.read_bytes()) for path in (reached(main) or {main})]
    tensors = {key: entry for shard in shards for key, entry in shard.tensors.items()}
    partial = made.source.startswith("s-")
    for layer, truth in made.model.truth.items():
        parts = parts_of(tensors, layer)
        if ".weight" not in parts:
            if not partial:
                return f"{layer} is not there"
            continue
        read = decoded(parts)
        if error(read, truth) > FORMATS[made.format]:
            return f"{layer} has error {error(read, truth):.3g}"
    kept = {key for key in made.model.file.tensors if key.endswith((".bias", "norm.weight", "pos_embed"))}
    return "" if partial or not kept - tensors.keys() else f"{sorted(kept - tensors.keys())} are not there"


def decoded(parts: dict[str, Entry]) -> np.ndarray:
    if ".weight_scale" not in parts:
        return parts[".weight"].values()
    return multiplied(parts | {".weight_scale": f32(parts[".weight_scale"].values())})
