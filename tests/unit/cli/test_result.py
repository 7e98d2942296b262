"""``caidx result``: what is shown, and what people decide from the command line."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli.test_app import Caidx
from tests.unit.cli.test_app import caidx as caidx  # noqa: PLC0414 - a fixture
from tests.unit.cli.test_app import seeded as seeded  # noqa: PLC0414
from tests.unit.seeded import REQUEST


def test_results_are_listed_with_what_their_reports_say(seeded: Caidx) -> None:
    found = seeded.json("result", "list")
    assert found["results"]["items"][0]["request_id"] == REQUEST
    assert found["reports"] == {}
    assert "assessed" in seeded("result", "list")


def test_one_report_is_shown_with_its_versions(seeded: Caidx) -> None:
    assert seeded.json("result", "show", REQUEST)["versions"] == []
    assert "no report was made" in seeded("result", "show", REQUEST)
    seeded("result", "show", "0" * 32, status=1)
    assert "there is no request" in seeded.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--accept", "--reject"),
        (),
        ("--accept", "--identifier", "12345"),
    ],
)
def test_a_decision_is_one_of_three_and_a_person_is_named_whole(
    seeded: Caidx, arguments: tuple[str, ...]
) -> None:
    seeded("result", "assess", REQUEST, "--by", "Anna", *arguments, status=2)


def test_what_cannot_be_decided_is_told_in_one_line(seeded: Caidx) -> None:
    seeded("result", "assess", REQUEST, "--by", "Anna", "--reject", status=1)
    assert "a reason is needed" in seeded.err
    seeded("result", "retract", "0" * 32, "--by", "Anna", "--reason", "x", status=1)
    assert "there is no request" in seeded.err
    seeded("result", "assess", REQUEST, "--by", "Anna", "--accept", status=1)
    assert "kept no record" in seeded.err


def test_changes_are_read_from_a_file_and_mistakes_told_without_values(seeded: Caidx) -> None:
    file = seeded.folder / "changes.json"
    file.write_text(json.dumps([{"tracking_uid": "1", "presense": "DOE^JANE"}]))
    arguments = ("result", "assess", REQUEST, "--by", "Anna", "--reason", "x")
    seeded(*arguments, "--modify", str(file), status=1)
    assert "presense (unexpected_keyword_argument)" in seeded.err
    assert "DOE" not in seeded.err
