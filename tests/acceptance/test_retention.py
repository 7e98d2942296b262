"""Deletion on the whole hub: in its time, by hand, never under a legal hold."""

from __future__ import annotations

import pytest

from tests.acceptance.arrivals import MAIN, SECTIONS, conclusions, images, send, study_uid
from tests.running_hub import RunningHub, StartHub, wait_for

pytestmark = pytest.mark.peers

AT_ONCE = {
    "images_days": 0,
    "results_days": 365,
    "minimum_free_gib": 0,
    "every_seconds": 0.2,
}


def held(hub: RunningHub, name: str) -> int:
    query = "SELECT count(*) AS n FROM instances WHERE study_instance_uid = :uid"
    return int(hub.rows(query, uid=study_uid(name))[0]["n"])


def bytes_on_disk(hub: RunningHub, name: str) -> bool:
    """Whether the study's UID still stands in any file of images."""
    uid = study_uid(name).encode()
    return any(
        uid in path.read_bytes() for path in (hub.data / "objects").rglob("*") if path.is_file()
    )


def test_what_is_delivered_and_has_had_its_time_is_erased(start_hub: StartHub) -> None:
    hub = start_hub(sections={**SECTIONS, "retention": AT_ONCE})
    send(hub, images("due", MAIN))
    uid = study_uid("due")
    wait_for(lambda: hub.timeline(uid) is not None, "the study")
    wait_for(lambda: not bytes_on_disk(hub, "due") and not held(hub, "due"), "the deletion", 60)
    timeline = hub.wait_for_study(uid)
    assert {delivery.state for delivery in timeline.deliveries} == {"delivered"}
    assert len(conclusions(hub, "due")) == 1
    assert timeline.revisions[0].purged_at is not None
    (purged,) = (event for event in timeline.events if event.action == "study.purged")
    assert purged.detail["instances"] == 8

    send(hub, images("due", MAIN))
    hub.wait_for_study(uid, revision=2)
    timeline = hub.wait_for_study(uid, revision=2)
    assert len(timeline.requests) == 1, "the result that it has stands"


def test_a_person_deletes_holds_and_releases(start_hub: StartHub) -> None:
    hub = start_hub(sections=SECTIONS)
    send(hub, images("by-hand", MAIN))
    uid = study_uid("by-hand")
    hub.wait_for_study(uid)
    assert bytes_on_disk(hub, "by-hand")

    hub.caidx("study", "hold", uid, "--reason", "case 7")
    refused = hub.caidx("study", "purge", uid, "--reason", "space", "--force", check=False)
    assert refused.returncode == 1
    assert "a legal hold is on it: case 7" in " ".join(refused.stderr.split())
    hub.caidx("study", "release-hold", uid, "--reason", "closed")
    told = hub.caidx("study", "purge", uid, "--reason", "the patient asked for it").stdout
    assert "8 images" in told
    wait_for(lambda: not bytes_on_disk(hub, "by-hand"), "the erasure", 60)
    assert held(hub, "by-hand") == 0
    shown = " ".join(hub.caidx("study", "show", uid).stdout.split())
    assert "its images were deleted" in shown
    routed = hub.caidx("study", "route", uid, check=False)
    assert routed.returncode == 1
    assert "were deleted" in " ".join(routed.stderr.split())
    hub.caidx("audit", "verify")


def test_the_rules_are_applied_again_by_hand(start_hub: StartHub) -> None:
    hub = start_hub(sections=SECTIONS)
    send(hub, images("again", MAIN))
    hub.wait_for_study(study_uid("again"))
    hub.caidx("study", "route", study_uid("again"))
    timeline = hub.wait_for_study(study_uid("again"))
    wait_for(
        lambda: (
            hub.rows("SELECT count(*) AS n FROM audit_log WHERE action = 'study.routed'")[0]["n"]
            == 2
        ),
        "the second routing",
        60,
    )
    timeline = hub.wait_for_study(study_uid("again"))
    assert len(timeline.requests) == 1
