"""``caidx demo``: two studies through a whole hub on this machine, against known answers."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.rule import Rule

from hub.bootstrap.hub import Hub
from hub.cli import demo_cases, demo_hub
from hub.cli.demo_cases import Case, Known
from hub.cli.demo_hub import DemoHub
from hub.cli.send import send_with_progress, sender_of
from hub.cli.session import Json, Session, session_of
from hub.domain.delivery import DeliveryState, DocumentKind
from hub.errors import TransientError
from hub.ports import SentAs
from hub.store import audit
from hub.store.counts import counts
from hub.store.overview import DeliveryRow, StudyTimeline, study_timeline
from hub.store.results import OPEN_STATES

_FOLDER = Path("var/demo")
_RESULT_SECONDS = 300.0
_NOTICEABLE_SECONDS = 0.005
_UNSETTLED = (DeliveryState.PENDING, DeliveryState.RETRYING)
_RECEIVED = (SentAs.STORED, SentAs.WARNING)


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Option(help="Where the demonstration lives.")] = _FOLDER,
    *,
    as_json: Json = False,
) -> None:
    """Start a hub on its defaults, send it a chest CT and an ECG, compare with known answers.

    Needs nothing installed beside the hub. Exit status 0 only if everything is as expected;
    a second run sends the same again and shows that nothing is added.
    """
    session = session_of(context)
    out = Console(quiet=True) if as_json else session.out
    begun = time.monotonic()
    place = demo_hub.prepare(folder)
    out.print(Rule("CAIDX hub: two studies, from C-STORE to report", align="left"))
    with demo_hub.running(place):
        cases = (demo_cases.chest_ct(folder / "input" / "chest-ct"), demo_cases.ecg())
        demo_hub.wait_until_ready(place)
        out.print(
            f"hub started: DICOM CAIDX@127.0.0.1:{place.dicom_port}, "
            f"http://127.0.0.1:{place.web_port}, data in {folder}"
        )
        inner = Session(place.config_file, out=out, err=session.err)
        reports, verdicts = _send_and_compare(inner, place, cases)
    _tell_what_next(inner, place, cases)
    passed = all(report.passed for report in reports) and all(v.passed for v in verdicts)
    word = "[bold green]as expected[/]" if passed else "[bold red]NOT as expected[/]"
    out.print(f"{word}, {time.monotonic() - begun:.0f} s in all")
    if as_json:
        session.print_json({"passed": passed, "studies": reports, "verdicts": verdicts})
    if not passed:
        raise typer.Exit(1)


def _send_and_compare(
    session: Session, place: DemoHub, cases: Sequence[Case]
) -> tuple[list[CaseReport], list[Verdict]]:
    with session.hub() as hub:
        known_before = _known(hub, cases)
        before = _inventory(hub, place)
        for case in cases:
            _send(session, place, case)
        timelines = [_wait_for_results(hub, case) for case in cases]
        if known_before:
            _let_quiet_time_pass(hub)
        after = _inventory(hub, place)
        rows, broken = audit.verify(hub.database)
    reports = [
        _report(place, case, timeline) for case, timeline in zip(cases, timelines, strict=True)
    ]
    for report, timeline in zip(reports, timelines, strict=True):
        _tell_report(session, report, timeline)
    verdicts = [Verdict("audit log", broken is None, f"{rows} rows, each proves itself")]
    if known_before:
        text = ", ".join(f"{before[name]} -> {after[name]} {name}" for name in before)
        verdicts.append(Verdict("sent again, nothing added", before == after, text))
    session.out.print()
    for verdict in verdicts:
        word = "[green]pass[/]" if verdict.passed else "[bold red]FAIL[/]"
        session.out.print(f"{word} {verdict.what}: {verdict.detail}")
    return reports, verdicts


# --- doing ---------------------------------------------------------------------------------


def _known(hub: Hub, cases: Sequence[Case]) -> bool:
    """Whether an earlier run has sent these studies already."""
    found = [study_timeline(hub.database, case.study_instance_uid) for case in cases]
    return all(timeline is not None for timeline in found)


def _inventory(hub: Hub, place: DemoHub) -> dict[str, int]:
    """How much of everything there is: what a second run must leave unchanged."""
    found = counts(hub.database)
    return {
        "revisions of studies": sum(found.studies.values()),
        "inference requests": sum(found.requests.values()),
        "deliveries": sum(found.deliveries.values()),
        "documents": sum(1 for path in place.results.rglob("*") if path.is_file()),
    }


def _send(session: Session, place: DemoHub, case: Case) -> None:
    begun = time.monotonic()
    sent = send_with_progress(
        session,
        sender_of(session),
        [case.path],
        host="127.0.0.1",
        port=place.dicom_port,
        called_ae_title="CAIDX",
        calling_ae_title="CAIDX-DEMO",
    )
    stored = sum(file.sent_as in _RECEIVED for file in sent)
    if stored != case.instances:
        raise TransientError(f"{stored} of {case.instances} instances were stored")
    seconds = time.monotonic() - begun
    session.out.print(f"sent by C-STORE: {case.title}: {stored} instances in {seconds:.1f} s")


def _wait_for_results(hub: Hub, case: Case) -> StudyTimeline:
    deadline = time.monotonic() + _RESULT_SECONDS
    while time.monotonic() < deadline:
        timeline = study_timeline(hub.database, case.study_instance_uid)
        if timeline is not None and _is_settled(timeline):
            return timeline
        time.sleep(0.1)
    raise TransientError(f"no result after {_RESULT_SECONDS:.0f} s: {case.title}")


def _is_settled(timeline: StudyTimeline) -> bool:
    """Every revision was routed, every request answered, every document delivered or dead."""
    return (
        all(row.state == "routed" for row in timeline.revisions)
        and all(request.state not in OPEN_STATES for request in timeline.requests)
        and all(delivery.state not in _UNSETTLED for delivery in timeline.deliveries)
    )


def _let_quiet_time_pass(hub: Hub) -> None:
    """If sending again had opened a new revision, it would be complete and routed after this."""
    time.sleep(2 * hub.settings.completeness.quiet_seconds)


# --- comparing -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that has to be as expected."""

    what: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class CaseReport:
    """What came of one study."""

    case: Case
    measured: Mapping[str, float]
    """Value of each finding by its code."""
    documents: Mapping[DocumentKind, Path]
    seconds_to_report: float | None
    """From the last image to the last delivered document; null where none was."""

    @property
    def passed(self) -> bool:
        """Every value is close enough, every document is there."""
        values = all(known.agrees(self.measured.get(known.code_value)) for known in self.case.known)
        return values and all(kind in self.documents for kind in self.case.documents)


def _report(place: DemoHub, case: Case, timeline: StudyTimeline) -> CaseReport:
    if not timeline.requests:
        return CaseReport(case, {}, {}, None)
    request = timeline.requests[-1]
    deliveries = [
        row
        for row in timeline.deliveries
        if row.request_id == request.request_id and row.state == DeliveryState.DELIVERED
    ]
    times = [row.delivered_at for row in deliveries if row.delivered_at is not None]
    last_image = timeline.revisions[-1].last_received_at
    return CaseReport(
        case,
        measured=_measured(timeline, request.request_id),
        documents={
            DocumentKind(row.kind): path for row in deliveries for path in _file(place, row)
        },
        seconds_to_report=(max(times) - last_image).total_seconds() if times else None,
    )


def _measured(timeline: StudyTimeline, request_id: str) -> dict[str, float]:
    return {
        finding["code"]["code_value"]: finding["value"]
        for result in timeline.results
        if result.request_id == request_id
        for finding in result.findings
        if finding.get("value") is not None
    }


def _file(place: DemoHub, row: DeliveryRow) -> list[Path]:
    return list((place.results / row.request_id).glob(f"{row.kind}-{row.document_id}.*"))


# --- telling -------------------------------------------------------------------------------


def _tell_report(session: Session, report: CaseReport, timeline: StudyTimeline) -> None:
    case, out = report.case, session.out
    out.print()
    out.print(Rule(case.title, align="left"))
    out.print(f"study {case.study_instance_uid}")
    _tell_path(session, timeline)
    out.print(f"known values: {case.origin}")
    session.print_table(
        "measured against known values",
        ("finding", "measured", "known", "allowed", "verdict"),
        [_value_row(known, report.measured.get(known.code_value)) for known in case.known],
        "",
    )
    rows = [
        (kind.value, report.documents.get(kind, "missing"), _word(kind in report.documents))
        for kind in case.documents
    ]
    session.print_table("where the results lie", ("document", "file", "verdict"), rows, "")


def _tell_path(session: Session, timeline: StudyTimeline) -> None:
    revision = timeline.revisions[-1]
    last_image = revision.last_received_at
    steps: list[tuple[str, datetime | None, str]] = [
        ("receive", last_image, f"{revision.received_instances} instances, each durable"),
        ("complete", revision.completed_at, f"evidence: {revision.evidence}"),
    ]
    for decision in timeline.decisions:
        text = f"rule {decision.route}: {decision.decision}"
        steps.append(("route", decision.decided_at, text))
    for request in timeline.requests:
        model = f"{request.model_id} {request.model_version}"
        steps.append(("infer", request.finished_at, f"{model}: {request.outcome or request.state}"))
    delivered = [row.delivered_at for row in timeline.deliveries if row.delivered_at]
    text = f"{len(delivered)} of {len(timeline.deliveries)} documents confirmed"
    steps.append(("deliver", max(delivered, default=None), text))
    session.print_table(
        "the path it took",
        ("step", "done at", "after last image", "what"),
        [(name, at, _after(at, last_image), text) for name, at, text in steps],
        "",
    )
    for result in timeline.results:
        noticeable = {p: s for p, s in result.timings.items() if s >= _NOTICEABLE_SECONDS}
        parts = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in noticeable.items())
        session.out.print(f"seconds of work: {parts}", soft_wrap=True)


def _after(at: datetime | None, last_image: datetime) -> str:
    return "" if at is None else f"{(at - last_image).total_seconds():.2f} s"


def _value_row(known: Known, measured: float | None) -> tuple[str, ...]:
    return (
        known.what,
        "none" if measured is None else f"{measured:.2f} {known.unit}",
        f"{known.value:.2f} {known.unit}",
        f"+- {known.tolerance:.2f} {known.unit}",
        _word(known.agrees(measured)),
    )


def _word(passed: bool) -> str:  # noqa: FBT001 - the question is the value
    return "pass" if passed else "FAIL"


def _tell_what_next(session: Session, place: DemoHub, cases: Sequence[Case]) -> None:
    program = "caidx" if shutil.which("caidx") else sys.argv[0]  # as the person can type it
    caidx = f"{program} -c {place.config_file}"
    out = session.out
    out.print()
    out.print("where to look next")
    for command, why in (
        (f"{caidx} study show {cases[0].study_instance_uid}", "everything about the CT"),
        (f"{caidx} audit verify", "prove the log"),
        (f"{caidx} serve", "run this hub again"),
        (f"{caidx} send FOLDER --to CAIDX@127.0.0.1:{place.dicom_port}", "send your own study"),
        (f"{caidx} key create --name me --scope operator", "a key to the HTTP API"),
        (
            f"curl -u me:KEY http://127.0.0.1:{place.web_port}/api/v1/studies",
            "while it runs, with that key",
        ),
    ):
        out.print(f"  {command}  [dim]# {why}[/]", soft_wrap=True)
    out.print()
