"""What is kept and forgotten beside documents: versions of reports, changes of patients, alerts."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from hub.domain.identity import PatientIdentity
from hub.domain.inference import Outcome
from hub.domain.patient import PatientChange, PatientChangeKind
from hub.domain.report import ReportCause, ReportStatus
from hub.store import patients, report_versions
from hub.store.report_versions import VersionRow, VersionState
from hub.store.schema import critical_alerts, documents, patient_changes, requests, studies
from tests.unit.store.test_retention import DAY, Site, site

__all__ = ["site"]


def _version(site: Site, number: int, state: VersionState) -> None:
    (request_id,) = site.bench.column(requests.c.request_id)
    row = VersionRow(
        request_id=str(request_id),
        version=number,
        status=ReportStatus.FINAL,
        cause=ReportCause.ACCEPTED,
        outcome=Outcome.ASSESSED,
        actor="user:anna",
        state=state,
        made_at=site.bench.clock.now(),
    )
    with site.bench.pipeline.database.write() as connection:
        report_versions.add(connection, row)


def test_a_version_that_could_not_be_made_keeps_the_study_until_a_later_one_is(site: Site) -> None:
    site.study()
    _version(site, 2, VersionState.FAILED)
    site.bench.clock.advance(20 * DAY)
    site.housekeeper().turn()
    assert None in site.bench.column(documents.c.purged_at)
    _version(site, 3, VersionState.MADE)
    site.housekeeper().turn()
    assert None not in site.bench.column(documents.c.purged_at)
    assert len(site.bench.column(report_versions.report_versions.c.version)) == 3


def test_a_report_that_only_a_held_alert_would_have_carried_goes_in_its_time(site: Site) -> None:
    """Nobody has to settle it: the escalation stands for it."""
    site.study()
    (request_id,) = site.bench.column(requests.c.request_id)
    with site.bench.pipeline.database.write() as connection:
        connection.execute(sa.text("DELETE FROM deliveries"))
        connection.execute(
            sa.insert(critical_alerts).values(
                request_id=request_id,
                version=1,
                route="chest",
                raised_at=site.bench.clock.now(),
                state="held",
            )
        )
    site.bench.clock.advance(20 * DAY)
    site.housekeeper().turn()
    assert None not in site.bench.column(documents.c.purged_at)


def test_critical_alerts_of_long_ago_are_forgotten(site: Site) -> None:
    site.study()
    (request_id,) = site.bench.column(requests.c.request_id)
    now = site.bench.clock.now()
    with site.bench.pipeline.database.write() as connection:
        for version, age in ((1, 31), (2, 1)):
            connection.execute(
                sa.insert(critical_alerts).values(
                    request_id=request_id,
                    version=version,
                    route="chest",
                    raised_at=now - timedelta(days=age),
                    state="sent",
                )
            )
    site.housekeeper().turn()
    assert site.bench.column(critical_alerts.c.version) == [2]


def _change(site: Site, old: str, new: str) -> None:
    change = PatientChange(
        change_id=f"{old}>{new}",
        kind=PatientChangeKind.MERGED if old != new else PatientChangeKind.UPDATED,
        patient_id=old,
        issuer_of_patient_id="",
        current=PatientIdentity(new),
        source="his",
        received_at=site.bench.clock.now(),
    )
    with site.bench.pipeline.database.write() as connection:
        patients.record_change(connection, site.bench.pipeline.journal, change)


def test_changes_of_patients_are_forgotten_when_no_report_can_be_about_them(site: Site) -> None:
    site.study()
    (own,) = map(str, site.bench.column(studies.c.patient_id))
    _change(site, own, "B")
    _change(site, "B", "C")  # what the study's patient has become
    _change(site, "STRANGER", "STRANGER")
    site.bench.clock.advance(19 * DAY)
    site.housekeeper().turn()
    assert len(site.bench.column(patient_changes.c.change_id)) == 3

    with site.bench.pipeline.database.write() as connection:
        connection.execute(sa.text("UPDATE studies SET legal_hold = 'a court'"))
    site.bench.clock.advance(2 * DAY)
    site.housekeeper().turn()
    left = sorted(map(str, site.bench.column(patient_changes.c.change_id)))
    assert left == sorted([f"{own}>B", "B>C"]), "the study is still here"

    with site.bench.pipeline.database.write() as connection:
        connection.execute(sa.text("UPDATE studies SET legal_hold = NULL"))
    for _ in range(3):
        site.bench.clock.advance(DAY)
        site.housekeeper().turn()
    assert site.bench.column(patient_changes.c.change_id) == []
