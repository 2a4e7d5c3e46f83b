"""From a path to a Source: one file, shards and their index, folders, pickles, and what lies beside a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..errors import Refused, first_line
from .pickles import read_pickle
from .reader import open_regular, read_safetensors
from .shards import read_shards
from .sidecars import SCALES, read_scales, read_sidecars, sidecars_of
from .stored import STORES, Contents, Source

PICKLES = (".pt", ".pth", ".bin", ".ckpt")

COMPONENTS = ("transformer", "unet")


def open_source(path: str | os.PathLike[str] | Source, name: str = "") -> Source:
    """A .safetensors file, a sharded index.json, a folder with one checkpoint, or a .pt file of plain tensors.

    name: what messages about its tensors call it, the path without. A Source is handed on as it is.

    Scales in a file of their own are merged in: ``fp8_scales.safetensors`` (AngelSlim; a bare ``X`` becomes
    ``X.weight_scale``) and ``NAME_map.pt`` beside ``NAME.pt`` (HunyuanVideo; ``X`` becomes ``X.fp8_map_scale``).
    """
    if isinstance(path, Source):
        return path
    if not os.fspath(path):
        raise Refused("The name of the file is empty; give a path.")
    path = Path(path)
    try:
        return read_all(checkpoint_in(path) if path.is_dir() else path, path, name or str(path))
    except (OSError, ValueError) as problem:
        raise Refused(f"cannot be read: {first_line(problem)}; give another path.", file=path) from None


def read_all(main: Path, path: Path, name: str) -> Source:
    contents = reader_of(main)(main)
    scales = read_scales(main, contents.tensors)
    beside = (main, *sidecars_of(main))
    return Source({**contents.tensors, **scales}, contents.metadata, read_sidecars(main), path, name, beside)


def reader_of(path: Path) -> Callable[[Path], Contents]:
    """What reads a file, by the end of its name."""
    if path.suffix == ".json":
        return read_shards
    if path.suffix in STORES:
        return read_safetensors
    if path.suffix in PICKLES:
        return read_pickle
    open_regular(path).close()
    kinds = ", ".join((*STORES, ".index.json", *PICKLES))
    raise Refused(f"files named *{path.suffix or path.name} are not read here; give one of {kinds}.", file=path)


##### Folders


def checkpoint_in(folder: Path) -> Path:
    """The one checkpoint of a folder; of a pipeline, its transformer's or unet's."""
    if (folder / "model_index.json").exists():
        return checkpoint_in(the_only([folder / c for c in COMPONENTS if (folder / c).is_dir()], folder))
    for suffixes in ((".index.json",), STORES, PICKLES):
        found = [p for p in sorted(folder.iterdir()) if p.name.endswith(suffixes) and is_main(p)]
        if found:
            return the_only(found, folder)
    raise Refused("the folder holds no checkpoint; name a .safetensors file or a folder that holds one.", file=folder)


def is_main(path: Path) -> bool:
    """Whether a file is a model's, not a companion of one."""
    return path.name != SCALES and not path.stem.endswith("_map") and not path.name.startswith(".")


def the_only(found: list[Path], folder: Path) -> Path:
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found[:4]) + (", ..." if len(found) > 4 else "")
    raise Refused(f"the folder holds {len(found)} checkpoints ({names}), not one; name the one to read.", file=folder)
