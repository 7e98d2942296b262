"""Sending the same studies again changes nothing anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.studies import CT_SMALL, ecg, phantom, sample
from tests.peers.fhir_server import FhirServer
from tests.peers.orthanc import Level, Orthanc
from tests.running_hub import RunningHub, StartHub

pytestmark = pytest.mark.peers

LEVELS: tuple[Level, ...] = ("patients", "studies", "series", "instances")
TABLES = {
    "associations": "",
    "instances": "study_instance_uid",
    "studies": "study_instance_uid",
    "study_revisions": "study_instance_uid",
    "route_decisions": "study_instance_uid",
    "requests": "study_instance_uid",
    "results": "",
    "documents": "",
    "deliveries": "study_instance_uid",
    "alerts": "study_instance_uid",
    "audit_log": "study_instance_uid",
    "workflow_status": "workflow_uuid",
}
"""Everything that work shows in, the engine's jobs too, and where its study is named."""
TRANSFER = {"associations", "audit_log"}


def counts(hub: RunningHub, marker: str) -> dict[str, int]:
    """Rows by table, without those of the marker."""
    return {
        table: int(
            hub.rows(
                f"SELECT count(*) AS n FROM {table}"
                + (f" WHERE {column} NOT LIKE :marker" if column else ""),
                marker=f"%{marker}%",
            )[0]["n"]
        )
        for table, column in TABLES.items()
    }


def held(orthanc: Orthanc, fhir_server: FhirServer) -> dict[str, object]:
    """What the destinations hold; of resources also their versions."""
    by_level: dict[str, object] = {f"Orthanc {level}": orthanc.count(level) for level in LEVELS}
    return by_level | {
        f"{kind}/{one['id']}": one["meta"]["versionId"]
        for kind in fhir_server.counts()
        for one in fhir_server.search(kind)
    }


def test_sending_the_same_studies_again_changes_nothing(
    start_hub: StartHub, orthanc: Orthanc, fhir_server: FhirServer, tmp_path: Path
) -> None:
    hub = start_hub(orthanc=orthanc, fhir_server=fhir_server)
    studies = (phantom(tmp_path / "chest"), ecg())
    for study in studies:
        hub.send(study.files)
    for study in studies:
        hub.wait_for_study(study.study_instance_uid)
    marker = sample(CT_SMALL, tmp_path / "marker", name="marker", BodyPartExamined="KNEE")
    before = held(orthanc, fhir_server), counts(hub, marker.study_instance_uid)
    assert before[0]["Orthanc instances"] == 3 + 2
    assert len([name for name in before[0] if name.startswith("DiagnosticReport")]) == 2
    assert before[1]["instances"] == sum(len(study.files) for study in studies)

    for study in studies:
        hub.send(study.files)
    # The marker is received after them, and completed after anything of theirs would have been.
    hub.send(marker.files)
    timeline = hub.wait_for_study(marker.study_instance_uid)
    assert timeline.requests == ()
    open_jobs = "SELECT 1 FROM workflow_status WHERE status IN ('ENQUEUED', 'PENDING', 'DELAYED')"
    assert hub.rows(open_jobs) == []

    after = held(orthanc, fhir_server), counts(hub, marker.study_instance_uid)
    assert after[0] == before[0]
    changes = {name for name in TABLES if after[1][name] != before[1][name]}
    assert changes <= TRANSFER
    new = hub.rows(
        "SELECT action FROM audit_log WHERE study_instance_uid <> :marker"
        " ORDER BY sequence LIMIT -1 OFFSET :known",
        marker=marker.study_instance_uid,
        known=before[1]["audit_log"],
    )
    assert {row["action"] for row in new} <= {"study.received"}
