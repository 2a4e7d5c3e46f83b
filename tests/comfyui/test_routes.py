"""The panel's routes and files that are hostile: no folder of the server, no byte of a file that is no checkpoint."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def seen(contract) -> dict:
    return contract("routes")


def test_no_answer_tells_a_folder_or_a_byte_of_another_file(seen):
    for kind, text in seen["answers"].items():
        assert seen["folder"] not in text and "SECRET" not in text and seen["number"] not in text, f"{kind}: {text}"


@pytest.mark.parametrize("kind", ["link", "link as shard"])
def test_links_that_lead_out_are_not_opened(seen, kind):
    assert seen["answers"][kind].startswith("NotListed: ") and "link" in seen["answers"][kind]


def test_what_cannot_be_read_is_said(seen):
    for kind in ("rubbish", "rubbish as shard", "shard elsewhere", "shard absent", "sidecar"):
        found = json.loads(seen["answers"][kind])
        assert not found["accepted"] and found["sentence"].endswith("."), kind


def test_a_shard_that_was_exchanged_is_looked_at_anew(seen):
    assert json.loads(seen["exchanged"]["before"])["accepted"]
    assert not json.loads(seen["exchanged"]["after"])["accepted"]


def test_inspections_queue_and_give_up(seen):
    assert seen["crowd"] == {"most": 2, "told": 8}
