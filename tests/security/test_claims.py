"""Files of other jobs in a shared folder: whoever may write there may leave anything under their names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from scaled_fp8.quant import Refused
from scaled_fp8.quant.files import remote
from scaled_fp8.quant.files.claims import CLAIM, DEAD, Claim, claimed, claims_in

HOSTILE = {
    "nothing": b"", "no JSON": b"{", "nested": b"[" * 200_000, "list": b"[1]", "no text": b"\xff\xfe\x00",
    "commands": json.dumps({"host": "\x1b[2J\u202egnp\n\n" * 99}).encode(), "host as list": b'{"host": [[]]}',
    "long": json.dumps({"host": "x" * 10**6}).encode(), "number": b'{"host": ' + b"9" * 9999 + b"}",
}  # fmt: skip


def left(folder: Path, content: bytes, age: float) -> Path:
    """Another job's claim, renewed so many seconds ago."""
    path = folder / CLAIM.format("other")
    path.write_bytes(content)
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_claim_is_a_claim_whatever_it_says(kind: str, tmp_path: Path) -> None:
    path = left(tmp_path, HOSTILE[kind], 0)
    with pytest.raises(Refused, match="another job writes there") as refusal, claimed(f"file://{tmp_path}"):
        pass
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 700
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_old_one_is_taken_over_and_nothing_else_is(kind: str, tmp_path: Path) -> None:
    left(tmp_path, HOSTILE[kind], 2 * DEAD)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with claimed(f"file://{tmp_path}"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_one_of_tomorrow_is_waited_for(tmp_path: Path) -> None:
    left(tmp_path, b"{}", -86_400)
    with pytest.raises(Refused, match="free in 865[0-9]{2} s"), claimed(f"file://{tmp_path}"):
        pass


def test_a_folder_or_a_link_called_so_removes_nothing(tmp_path: Path) -> None:
    folder, outside = tmp_path / "shared", tmp_path / "outside"
    (folder / CLAIM.format("folder")).mkdir(parents=True)
    outside.write_bytes(b"kept")
    (folder / CLAIM.format("link")).symlink_to(outside)
    for path in (folder / CLAIM.format("folder"), outside):
        os.utime(path, (1, 1))
    try:
        with claimed(f"file://{folder}"):
            pass
    except Refused as refusal:
        assert str(refusal).isprintable()
    assert outside.read_bytes() == b"kept" and (folder / CLAIM.format("folder")).is_dir()


@pytest.mark.parametrize("name", ["a[b]", "a*", "a?b", "[!a]", "a b"])
def test_a_folder_whose_name_looks_like_a_pattern_is_itself(name: str, tmp_path: Path) -> None:
    for folder in (tmp_path / name, tmp_path / "ab", tmp_path / "a"):
        folder.mkdir()
    left(tmp_path / "ab", b"{}", 2 * DEAD)
    claim = Claim(f"file://{tmp_path / name}")
    claim.renew()
    assert claims_in(claim.folder) == [claim.path]
    claim.end()
    assert (tmp_path / "ab" / CLAIM.format("other")).exists()


def test_no_more_is_read_than_an_index_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index.json"
    path.write_bytes(b'{"a": "' + b"x" * 1000 + b'"}')
    assert remote.read_object(f"file://{path}") == {"a": "x" * 1000}
    monkeypatch.setattr(remote, "LARGEST", 999)
    assert remote.read_object(f"file://{path}") == {}
