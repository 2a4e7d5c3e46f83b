"""The panel's routes and files that are hostile: no folder of the server, no byte of a file that is no checkpoint."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def seen(contract) -> dict:
    return contract("routes")


def test_no_answer_tells_a_folder_or_a_byte_of_another_file(seen):
    kept = {f"{kind} elsewhere": text for kind, text in seen["kept"].items()}
    for kind, text in {**seen["answers"], **kept}.items():
        assert seen["folder"] not in text and "SECRET" not in text and seen["number"] not in text, f"{kind}: {text}"


def test_a_link_out_that_comfyui_does_not_list_is_not_opened(seen):
    answer = seen["answers"]["link as sidecar"]
    assert answer.startswith("NotListed: ") and "link" in answer


@pytest.mark.parametrize("kind", ["link", "folder", "shard"])
def test_a_model_kept_elsewhere_is_inspected_as_one_that_lies_here(seen, kind):
    here, kept = json.loads(seen["kept"]["itself"]), json.loads(seen["kept"][kind])
    assert kept["accepted"]
    assert [(layer["name"], layer["decision"]) for layer in kept["layers"]] == [
        (layer["name"], layer["decision"]) for layer in here["layers"]
    ]
    assert kept["plan"] == here["plan"] and kept["memory"] == here["memory"]


def test_what_comfyui_does_not_list_is_not_inspected(seen):
    assert seen["kept"]["not listed"].startswith("NotListed: ")


LOOKED_INTO = (
    "link", "link as shard", "rubbish", "rubbish as shard", "shard elsewhere", "shard absent", "sidecar",
)  # fmt: skip


@pytest.mark.parametrize("kind", LOOKED_INTO)
def test_what_cannot_be_read_is_said(seen, kind):
    found = json.loads(seen["answers"][kind])
    assert not found["accepted"] and found["sentence"].endswith(".")


def test_a_shard_that_was_exchanged_is_looked_at_anew(seen):
    assert json.loads(seen["exchanged"]["before"])["accepted"]
    assert not json.loads(seen["exchanged"]["after"])["accepted"]


def test_inspections_queue_and_give_up(seen):
    assert seen["crowd"] == {"most": 2, "told": 8}
