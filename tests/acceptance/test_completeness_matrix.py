"""When a study is complete: each kind of evidence, on the whole hub."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hub.ports import Expectation, ExpectationSource
from hub.store import studies
from tests.acceptance.arrivals import (
    MAIN,
    REFUSE,
    SECTIONS,
    URGENT,
    association,
    conclusions,
    images,
    send,
    store,
    study_uid,
)
from tests.running_hub import RunningHub, StartHub, launch_hub, wait_for

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """One hub for all; each test has studies of its own."""
    running = launch_hub(tmp_path_factory.mktemp("matrix"), sections=SECTIONS)
    yield running
    running.close()


def expect(hub: RunningHub, name: str, number: int) -> None:
    """What an archive would tell of a study."""
    told = Expectation(study_uid(name), ExpectationSource.ARCHIVE, number_of_instances=number)
    with hub.database.write() as connection:
        studies.expect(connection, told, datetime.now(UTC))


def evidence(hub: RunningHub, name: str, revision: int = 1) -> tuple[str, int, int | None]:
    row = hub.wait_for_study(study_uid(name), "settled", revision=revision).revisions[revision - 1]
    return row.evidence, row.received_instances, row.expected_instances


def test_the_end_of_the_transfer(hub: RunningHub) -> None:
    send(hub, images("released", MAIN))
    assert evidence(hub, "released") == ("association-released", 8, None)
    assert len(conclusions(hub, "released")) == 1


def test_silence_after_a_transfer_that_broke_off(hub: RunningHub) -> None:
    with association(hub) as sender:
        store(sender, images("aborted", MAIN))
        sender.abort()
    assert evidence(hub, "aborted") == ("quiet-time", 8, None)
    assert len(conclusions(hub, "aborted")) == 1


def test_the_expected_number_while_the_transfer_is_still_open(hub: RunningHub) -> None:
    expect(hub, "expected", 8)
    with association(hub) as sender:
        store(sender, images("expected", MAIN))
        assert evidence(hub, "expected") == ("expected-count", 8, 8)
        (conclusion,) = conclusions(hub, "expected")
    assert "INCOMPLETE" not in conclusion


def imaging_study(name: str, number: int) -> str:
    """What an order or an archive would say of a study by FHIR R4."""
    return json.dumps(
        {
            "resourceType": "ImagingStudy",
            "status": "available",
            "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{study_uid(name)}"}],
            "numberOfInstances": number,
        }
    )


def test_an_imaging_study_before_the_first_image(hub: RunningHub, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(imaging_study("fhir-before", 8))
    hub.caidx("study", "expect", str(tmp_path / "study.json"))
    with association(hub) as sender:
        store(sender, images("fhir-before", MAIN))
        assert evidence(hub, "fhir-before") == ("expected-count", 8, 8)
    shown = hub.caidx("study", "show", study_uid("fhir-before")).stdout
    assert "8 images are expected, as an order says" in shown


def test_an_imaging_study_while_the_transfer_is_open(hub: RunningHub, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(imaging_study("fhir-after", 8))
    with association(hub) as sender:
        store(sender, images("fhir-after", MAIN))
        hub.wait_for_study(study_uid("fhir-after"), "received")
        hub.caidx("study", "expect", str(tmp_path / "study.json"))
        assert evidence(hub, "fhir-after") == ("expected-count", 8, 8)
    timeline = hub.timeline(study_uid("fhir-after"))
    assert timeline is not None
    (event,) = [event for event in timeline.events if event.action == "study.expected"]
    assert event.actor == f"user:{getpass.getuser()}"


def test_missing_images_are_told_in_the_report(hub: RunningHub) -> None:
    expect(hub, "partial", 10)
    send(hub, images("partial", MAIN))
    assert evidence(hub, "partial")[1:] == (8, 10)
    (conclusion,) = conclusions(hub, "partial")
    assert "INCOMPLETE: computed on 8 of 10 images." in conclusion


def test_a_route_refuses_what_is_incomplete_until_it_is_not(hub: RunningHub) -> None:
    expect(hub, "refused", 8)
    every = images("refused", REFUSE)
    send(hub, every[:6])
    assert evidence(hub, "refused")[1:] == (6, 8)
    assert conclusions(hub, "refused") == []
    assert "6 of 8 images have come" in hub.caidx("study", "show", study_uid("refused")).stdout
    send(hub, every[6:])
    assert evidence(hub, "refused", 2) == ("expected-count", 8, 8)
    assert len(conclusions(hub, "refused")) == 1


def test_a_straggling_transfer_is_waited_for(hub: RunningHub) -> None:
    every = images("straggler", MAIN)
    with association(hub, "SLOW") as slow:
        store(slow, every[:1])
        send(hub, every[1:7], "FAST")
        time.sleep(1.5)  # three quiet times
        (row,) = hub.wait_for_study(study_uid("straggler"), "received").revisions
        assert row.state == "receiving"
        store(slow, every[7:])
    assert evidence(hub, "straggler") == ("association-released", 8, None)
    assert len(conclusions(hub, "straggler")) == 1


def test_studies_that_take_turns_in_one_association(hub: RunningHub) -> None:
    names = ("turn-1", "turn-2", "turn-3")
    with association(hub) as sender:
        for taken in zip(*(images(name, MAIN) for name in names), strict=True):
            store(sender, list(taken))
    for name in names:
        assert evidence(hub, name) == ("association-released", 8, None)
        assert len(conclusions(hub, name)) == 1


def test_the_same_study_from_two_senders_at_once_is_one(hub: RunningHub) -> None:
    every = images("twice", MAIN)
    with association(hub, "SCANNER_A") as one, association(hub, "SCANNER_B") as other:
        for number in range(6):
            store(one, [every[number]])
            store(other, [every[number + 2]])  # most images come from both
    assert evidence(hub, "twice") == ("association-released", 8, None)
    assert len(conclusions(hub, "twice")) == 1


def test_an_urgent_route_starts_with_its_series(hub: RunningHub) -> None:
    with association(hub) as sender:
        store(sender, images("urgent", URGENT))
        rest = images("urgent", MAIN)
        store(sender, rest[:4])
        wait_for(lambda: len(conclusions(hub, "urgent")) == 1, "the urgent result", 60)
        timeline = hub.timeline(study_uid("urgent"))
        assert timeline is not None
        first = timeline.revisions[0]
        assert (first.scope, first.evidence) == ("series", "series-complete")
        assert [request.route for request in timeline.requests] == ["urgent"]
        store(sender, rest[4:])
    last = len(hub.wait_for_study(study_uid("urgent"), "received").revisions)
    assert evidence(hub, "urgent", last) == ("association-released", 16, None)
    timeline = hub.timeline(study_uid("urgent"))
    assert timeline is not None
    assert [request.route for request in timeline.requests] == ["urgent", "main"]
    assert not any("AMENDED" in text for text in conclusions(hub, "urgent"))


def test_whoever_is_killed_after_the_last_image_the_results_come(start_hub: StartHub) -> None:
    hub = start_hub(sections=SECTIONS)
    names = [f"killed-{number}" for number in range(3)]
    with association(hub) as sender:
        for name in names:
            store(sender, images(name, MAIN))
        hub.kill()
        sender.abort()
    assert all(
        hub.timeline(study_uid(name)) is None or not conclusions(hub, name) for name in names
    )
    hub.restart()
    for name in names:
        hub.wait_for_study(study_uid(name))
        assert len(conclusions(hub, name)) == 1
