"""``caidx result``: what models answered, and what people decide about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hub.cli.actor import report_ledger
from hub.cli.session import Json, Limit, Session, cell, session_of
from hub.cli.study import finding_cells
from hub.domain.assessment import Decision, FindingChange
from hub.domain.inference import Outcome
from hub.domain.report import Person, ReportCause
from hub.errors import RejectedError
from hub.formats.finding_changes import read_changes
from hub.store.overview import list_results
from hub.store.report_overview import ReportRow, latest_versions, report_of_request

app = typer.Typer(help="What models answered, and what became of it.", no_args_is_help=True)

Request = Annotated[str, typer.Argument(metavar="REQUEST", help="As `result list` shows it.")]
By = Annotated[str, typer.Option("--by", help="Who decides: `Family^Given^^Prefix`, or a name.")]
Identifier = Annotated[
    str, typer.Option("--identifier", metavar="SYSTEM|VALUE", help="E.g. a physician number.")
]
Organization = Annotated[str, typer.Option("--organization", help="Whom they act for.")]


@app.command("list")
def list_(
    context: typer.Context,
    outcome: Annotated[Outcome | None, typer.Option(help="Only these.")] = None,
    limit: Limit = 50,
    *,
    as_json: Json = False,
) -> None:
    """Answers of models, newest first, and what their reports say by now."""
    session = session_of(context)
    with session.hub() as hub:
        page = list_results(hub.database, outcome=outcome, limit=limit)
        reports = latest_versions(hub.database, [row.request_id for row in page.items])
    if as_json:
        session.print_json({"results": page, "reports": reports})
        return
    session.print_table(
        f"{len(page.items)} of {page.total} results",
        ("request", "study", "model", "outcome", "report", "version", "made"),
        [
            (
                row.request_id,
                f"{row.study_instance_uid}#{row.revision}",
                f"{row.model_id} {row.model_version}",
                row.outcome,
                reports[row.request_id].status if row.request_id in reports else "",
                reports[row.request_id].version if row.request_id in reports else "",
                row.made_at,
            )
            for row in page.items
        ],
        "no model has answered yet",
    )


@app.command()
def show(context: typer.Context, request_id: Request, *, as_json: Json = False) -> None:
    """One report: the findings, and every version of it."""
    session = session_of(context)
    with session.hub() as hub:
        report = report_of_request(hub.database, request_id)
    if report is None:
        raise RejectedError(f"there is no request {request_id}")
    if as_json:
        session.print_json(report)
        return
    _show(session, report)


@app.command()
def assess(
    context: typer.Context,
    request_id: Request,
    *,
    by: By,
    accept: Annotated[bool, typer.Option("--accept", help="It is right: final.")] = False,
    modify: Annotated[
        Path | None,
        typer.Option(
            "--modify",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help='It is right with these changes, in JSON: `[{"tracking_uid": "...", "presence": '
            '"absent"}]`, or `value`, `coded_value`, `statement`, `drop`.',
        ),
    ] = None,
    reject: Annotated[bool, typer.Option("--reject", help="It is wrong: withdrawn.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Stands in the report.")] = "",
    identifier: Identifier = "",
    organization: Organization = "",
) -> None:
    """Accept, modify or reject a report, as the person who answers for it."""
    if accept + (modify is not None) + reject != 1:
        raise typer.BadParameter("say --accept, or --modify FILE, or --reject")
    changes: Sequence[FindingChange] = ()
    cause = ReportCause.ACCEPTED if accept else ReportCause.REJECTED
    if modify is not None:
        cause, changes = ReportCause.MODIFIED, read_changes(modify.read_bytes())
    person = _person(by, identifier, organization)
    _decide(context, request_id, cause, person=person, reason=reason, changes=changes)


@app.command()
def retract(
    context: typer.Context,
    request_id: Request,
    *,
    by: By,
    reason: Annotated[str, typer.Option("--reason", help="Stands in the report.")],
    identifier: Identifier = "",
    organization: Organization = "",
) -> None:
    """Withdraw a report wherever it was sent; that is final."""
    person = _person(by, identifier, organization)
    _decide(context, request_id, ReportCause.RETRACTED, person=person, reason=reason)


def _decide(
    context: typer.Context,
    request_id: str,
    cause: ReportCause,
    *,
    person: Person,
    reason: str,
    changes: Sequence[FindingChange] = (),
) -> None:
    session = session_of(context)
    try:
        decision = Decision(cause, person, reason, tuple(changes))
    except ValueError as error:
        raise RejectedError(str(error)) from None
    with session.hub() as hub, report_ledger(hub) as ledger:
        version, is_new = ledger.decide(request_id, decision)
    known = "" if is_new else " already"
    session.out.print(
        f"version {version.version} of the report of {request_id} is{known} {version.status.value}"
    )


def _person(name: str, identifier: str, organization: str) -> Person:
    system, bar, value = identifier.rpartition("|")
    if identifier and not (bar and value):
        raise typer.BadParameter("--identifier is SYSTEM|VALUE")
    return Person(name, value, system, organization)


def _show(session: Session, report: ReportRow) -> None:
    session.out.print(
        f"[bold]{report.model_id} {report.model_version}[/] on study "
        f"{report.study_instance_uid}, revision {report.revision} ({report.state})"
    )
    for text in (*report.reasons, *report.warnings):
        session.out.print(f"  {cell(text)}")
    session.print_table(
        "findings of the model",
        ("tracking UID", "code", "finding", "answer", "probability"),
        [_finding(finding) for finding in report.findings],
        "no findings",
    )
    session.print_table(
        "versions of the report",
        ("version", "status", "cause", "outcome", "by", "reason", "state", "made"),
        [
            (
                row.version,
                row.status,
                row.cause,
                row.outcome,
                row.person["name"] if row.person else "",
                row.reason,
                row.state,
                row.made_at,
            )
            for row in report.versions
        ],
        "no report was made",
    )
    for row in report.versions:
        if row.changes is not None:
            session.print_table(
                f"findings as changed with version {row.version}",
                ("tracking UID", "code", "finding", "answer", "probability"),
                [_finding(finding) for finding in row.changes],
                "",
            )


def _finding(finding: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        finding["tracking_uid"],
        finding["code"]["code_value"],
        *finding_cells(finding),
        finding.get("probability"),
    )
