"""``caidx study``: what arrived, what was done with it, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from hub.cli.actor import actor, job_queue, rerouting, study_keeper
from hub.cli.session import Json, Limit, Session, cell, session_of
from hub.errors import RejectedError
from hub.fetching import request_study
from hub.formats.fhir.imaging_study import read_imaging_studies
from hub.store.knowledge import record_expectation
from hub.store.overview import StudyTimeline, list_studies, study_timeline

_UID = re.compile(r"(?=.{1,64}\Z)[0-9]+(\.[0-9]+)*")

app = typer.Typer(help="What arrived, and what was done with it.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="receiving, complete or routed.")] = None,
    limit: Limit = 50,
    *,
    as_json: Json = False,
) -> None:
    """Studies, the most recently received first."""
    session = session_of(context)
    with session.hub() as hub:
        page = list_studies(hub.database, state=state, limit=limit)
    if as_json:
        session.print_json(page)
        return
    session.print_table(
        f"{len(page.items)} of {page.total} studies",
        ("study instance UID", "revision", "state", "instances", "evidence", "last received"),
        [
            (
                row.study_instance_uid,
                row.revision,
                "held back" if row.problems else row.state,
                _of(row.received_instances, row.expected_instances),
                row.evidence,
                row.last_received_at,
            )
            for row in page.items
        ],
        "no study has arrived yet",
    )


@app.command()
def show(
    context: typer.Context,
    study_instance_uid: Annotated[str, typer.Argument(metavar="UID")],
    *,
    as_json: Json = False,
) -> None:
    """One study: why AI was, or wasn't, run; its results; everything that happened."""
    session = session_of(context)
    with session.hub() as hub:
        timeline = study_timeline(hub.database, study_instance_uid)
    if timeline is None:
        raise RejectedError(f"no study {study_instance_uid} has arrived")
    if as_json:
        session.print_json({"explanation": timeline.explanation, "timeline": timeline})
        return
    session.out.print(f"[bold]study {study_instance_uid}[/]")
    for line in timeline.explanation:
        session.out.print(f"  {cell(line)}")
    session.out.print()
    _show_values(session, timeline)
    _show_findings(session, timeline)
    _show_reports(session, timeline)
    _show_deliveries(session, timeline)
    _show_alerts(session, timeline)
    _show_events(session, timeline)


Uid = Annotated[str, typer.Argument(metavar="UID")]
Reason = Annotated[str, typer.Option(help="Stands in the audit log.", prompt=True)]


@app.command()
def route(context: typer.Context, study_instance_uid: Uid) -> None:
    """Apply the rules to a study again, after one was mended or added."""
    session = session_of(context)
    with session.hub() as hub, rerouting(hub) as again:
        key = again.again(study_instance_uid)
    session.out.print(f"the rules are applied again to revision {key.revision}")


@app.command()
def fetch(
    context: typer.Context,
    study_instance_uid: Uid,
    archive: Annotated[str, typer.Option("--archive", help="Name of a configured archive.")],
) -> None:
    """Have an archive send a study; the hub treats it like one that was sent by itself."""
    session = session_of(context)
    names = [entry.name for entry in session.settings.archives]
    if archive not in names:
        raise RejectedError(
            f"there is no archive {archive}; configured: {', '.join(names) or 'none'}"
        )
    if not _UID.fullmatch(study_instance_uid):
        raise RejectedError(f"{study_instance_uid} is no Study Instance UID")
    with session.hub() as hub, job_queue(hub) as jobs:
        request_study(hub.database, jobs, hub.journal(actor()), study_instance_uid, archive)
    session.out.print(f"archive {archive} is asked for study {study_instance_uid}")


@app.command()
def expect(
    context: typer.Context,
    file: Annotated[
        typer.FileBinaryRead,
        typer.Argument(metavar="FILE", help="JSON of a FHIR R4 ImagingStudy, or of a Bundle; or -"),
    ],
) -> None:
    """Tell how many images a study has, as an ImagingStudy says, also before the first one."""
    session = session_of(context)
    expected = read_imaging_studies(file.read())
    with session.hub() as hub, hub.database.write() as connection:
        for one in expected:
            record_expectation(connection, hub.journal(actor()), one)
    for one in expected:
        session.out.print(f"study {one.study_instance_uid}: {one.number_of_instances} images")


@app.command()
def hold(context: typer.Context, study_instance_uid: Uid, reason: Reason) -> None:
    """Put a legal hold on a study: nothing of it is deleted."""
    session = session_of(context)
    with session.hub() as hub:
        study_keeper(hub).hold(study_instance_uid, reason)
    session.out.print("nothing of the study is deleted until the hold is released")


@app.command("release-hold")
def release_hold(context: typer.Context, study_instance_uid: Uid, reason: Reason) -> None:
    """Take the legal hold off a study."""
    session = session_of(context)
    with session.hub() as hub:
        study_keeper(hub).release_hold(study_instance_uid, reason)
    session.out.print("the study is deleted when its time has come")


@app.command()
def purge(
    context: typer.Context,
    study_instance_uid: Uid,
    reason: Reason,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also with failed requests, dead letters, problems.")
    ] = False,
) -> None:
    """Delete a study's images and reports now; what was done with it stays on record."""
    session = session_of(context)
    with session.hub() as hub:
        purged = study_keeper(hub).purge_by_hand(study_instance_uid, reason, force=force)
    values = f", {purged.values} measured values" if purged.values else ""
    session.out.print(
        f"{purged.instances} images{values} and {purged.documents} documents are deleted"
    )


def _show_values(session: Session, timeline: StudyTimeline) -> None:
    rows = [
        (one.revision, one.code, one.meaning, one.value, one.unit, one.status, one.age_days)
        for one in timeline.values
    ]
    columns = ("revision", "code", "what", "value", "unit", "status", "days before the order")
    if rows:
        session.print_table("measured values", columns, rows, "")


def _show_findings(session: Session, timeline: StudyTimeline) -> None:
    rows = [
        (result.model_id, result.outcome, *finding_cells(finding))
        for result in timeline.results
        for finding in result.findings
    ]
    if rows:
        session.print_table("results", ("model", "outcome", "finding", "value"), rows, "")


def finding_cells(finding: Mapping[str, Any]) -> tuple[str, str]:
    """(what, how much) of a finding as the results table keeps it."""
    meaning = str(finding["code"]["code_meaning"])
    if finding.get("value") is not None:
        unit = finding["unit"]["code_meaning"]
        return meaning, f"{finding['value']:g} {unit}"
    if finding.get("coded_value") is not None:
        return meaning, str(finding["coded_value"]["code_meaning"])
    return meaning, str(finding["presence"])


def _show_reports(session: Session, timeline: StudyTimeline) -> None:
    rows = [
        (row.request_id, row.version, row.status, row.cause, row.outcome, row.reason, row.made_at)
        for row in timeline.reports
    ]
    columns = ("request", "version", "status", "cause", "outcome", "reason", "made")
    if rows:
        session.print_table("versions of reports", columns, rows, "")


def _show_deliveries(session: Session, timeline: StudyTimeline) -> None:
    session.print_table(
        "deliveries",
        ("destination", "document", "state", "attempts", "answer", "delivered"),
        [
            (row.destination, row.kind, row.state, row.attempts, row.detail, row.delivered_at)
            for row in timeline.deliveries
        ],
        "no document was sent anywhere",
    )


def _show_alerts(session: Session, timeline: StudyTimeline) -> None:
    if timeline.alerts:
        rows = [(row.raised_at, row.kind, row.entity, row.message) for row in timeline.alerts]
        session.print_table("alerts", ("raised", "kind", "about", "message"), rows, "")


def _show_events(session: Session, timeline: StudyTimeline) -> None:
    session.print_table(
        "timeline (from the audit log)",
        ("#", "at", "who", "did", "to", "outcome"),
        [
            (
                event.sequence,
                event.at.astimezone().strftime("%H:%M:%S.%f")[:-3],
                event.actor,
                event.action,
                event.entity,
                event.outcome.value,
            )
            for event in timeline.events
        ],
        "nothing is recorded",
    )


def _of(received: int, expected: int | None) -> str:
    return str(received) if expected is None else f"{received} of {expected}"
