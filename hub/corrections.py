"""Versions of a report (hub.pipeline, step 6): the model's answer makes the first one; what people
decide, and what fails, make further ones (docs/adr/0008).

A version is made from the record of the answer, not by asking the model again, and goes to
whoever got the version before. Each is a durable job of its own; of several that wait, only the
last is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from hub.critical_alerts import rules_of
from hub.domain.critical import marked
from hub.domain.delivery import Document, DocumentKind
from hub.domain.identity import PatientIdentity
from hub.domain.inference import (
    ImagingInput,
    InferenceRequest,
    InferenceResult,
    InputRole,
    ModelKey,
    Outcome,
    Priority,
    Timing,
)
from hub.domain.model_card import ModelCard
from hub.domain.report import PreviousDocument, ReportCause, ReportStatus, ReportVersion
from hub.domain.routing import Route
from hub.errors import IntegrityError, RejectedError
from hub.formats.encoding import Encoder
from hub.ports import at_first_call
from hub.registry import RunningDestination
from hub.report_steps import SHOWN, Made, ReportMaker
from hub.store import instances, patients, report_versions, results
from hub.store.database import Database
from hub.store.deliveries import DeliveryTask
from hub.store.report_ledger import ReportLedger, effective_findings
from hub.store.report_versions import VersionRow, VersionState
from hub.store.results import FiledDocument, RequestRow

FAILED_REASON = "the AI analysis ended with an error and says nothing about the images"
"""What reports say; the operators' reason stands in the alert."""

_WITH_VOXELS = (
    DocumentKind.SEG,
    DocumentKind.SEG_FRACTIONAL,
    DocumentKind.SEG_LABELMAP,
    DocumentKind.PARAMETRIC_MAP,
    DocumentKind.KEY_IMAGE,
)
_OF_THE_FINDINGS = (DocumentKind.PRESENTATION_STATE, DocumentKind.KEY_OBJECTS)
_BELONG_TO_OTHERS = (ReportCause.RELEASED, ReportCause.PATIENT_CHANGED)
"""What was made before is another patient's, as far as its bytes say."""
_MADE_ANEW = (ReportCause.MODIFIED, *_BELONG_TO_OTHERS)

_decode = at_first_call("hub.formats.record:decode")
_previous_document = at_first_call("hub.formats.record:previous_document")

Versions = tuple[VersionRow, ...]


@dataclass(frozen=True, slots=True)
class PreparedReport:
    """A version whose documents are made and kept, and not yet on record."""

    row: VersionRow
    made: Made
    filed: tuple[FiledDocument, ...]
    priority: Priority | None = None
    """Of its deliveries; None: as the request has it."""
    missing: tuple[str, ...] = ()
    """Destinations that should get it, and are not configured any more."""

    @property
    def digests(self) -> dict[str, str]:
        """Identifier of each document -> SHA-256 of its bytes."""
        return {one.document.document_id: one.sha256 for one in self.filed}

    @property
    def timings(self) -> tuple[Timing, ...]:
        return self.made.timings


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a version is made from."""

    request: InferenceRequest
    result: InferenceResult
    card: ModelCard
    is_new: bool = False
    """It is not on record yet, and may have voxels."""
    is_followed: bool = False
    """Its patient was renamed or merged since: what was made before is another one's."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A version that a job makes."""

    request: RequestRow
    row: VersionRow
    versions: Versions
    """All, as they were when the job began; the last one is ``row``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrections:
    """Makes the versions of reports, the first ones too."""

    database: Database
    maker: ReportMaker
    ledger: ReportLedger
    routes: tuple[Route, ...] = field(default=())

    # --- a model's answer ----------------------------------------------------------------

    def prepare(
        self,
        row: RequestRow,
        request: InferenceRequest,
        result: InferenceResult,
        card: ModelCard,
    ) -> PreparedReport:
        """Make the documents of a model's answer, and its record. Usually it is the first version;
        a later one where the request had failed before.

        Raises:
            IntegrityError: the result does not belong to its request.
            RejectedError: it cannot be expressed.
            TransientError: no space left.
        """
        with self.database.read() as connection:
            versions = report_versions.versions_of(connection, row.request_id)
        amends = request.amends_revision is not None
        version = VersionRow(
            request_id=row.request_id,
            version=len(versions) + 1,
            status=ReportStatus.AMENDED if amends else ReportStatus.PRELIMINARY,
            cause=ReportCause.MODEL,
            outcome=result.outcome,
            actor=self.ledger.journal.actor,
            state=VersionState.MADE,
            made_at=self.ledger.journal.clock.now(),
        )
        return self._prepared(row, version, _Answer(request, result, card, is_new=True))

    def keep(self, connection: sa.Connection, row: RequestRow, prepared: PreparedReport) -> None:
        """Put a model's answer on record and its documents on their way, in the caller's
        transaction, which has locked the study's lines (`DeliveryLedger.lock`)."""
        self.ledger.add_made(connection, row, prepared.row)
        self._send(connection, row, prepared)

    def _send(self, connection: sa.Connection, row: RequestRow, prepared: PreparedReport) -> None:
        self.maker.send(connection, row, prepared.made, prepared.filed, prepared.priority)
        self.maker.alarm_missing(connection, row, prepared.missing, prepared.row.version)

    def ask_for_current_patient(self, task: DeliveryTask, reason: str) -> None:
        """A document was made before its patient was renamed or merged: have the report made
        again, once for all its documents, as it stands now.

        Raises:
            IntegrityError: nothing is left that it could be made from.
        """
        delivery = task.delivery
        with self.database.write() as connection:
            request = results.get_request(connection, delivery.request_id)
            versions = report_versions.versions_of(connection, delivery.request_id)
            number = report_versions.version_of(connection, delivery.document_id)
            if versions and versions[-1].version > number:
                return  # a newer one is, or will be, about the patient as he is now
            if not report_versions.has_record(connection, delivery.request_id):
                raise IntegrityError(f"{reason.partition(';')[0]}; {report_versions.NO_RECORD}")
            latest = versions[-1]
            is_ours = latest.outcome is not Outcome.FAILED and latest.person is None
            self.ledger.ask(
                connection,
                request,
                replace(
                    latest,
                    version=latest.version + 1,
                    cause=ReportCause.PATIENT_CHANGED if is_ours else latest.cause,
                    reason=reason if is_ours else latest.reason,
                    changes=None,
                    actor=self.ledger.journal.actor,
                    state=VersionState.ASKED,
                    made_at=self.ledger.journal.clock.now(),
                ),
            )

    # --- the job of a version --------------------------------------------------------------

    def run_report(self, argument: str) -> None:
        """The job of a version that was asked for: make it and send it."""
        while (work := self._begin(argument)) is not None:
            try:
                prepared = self._prepared(work.request, work.row, self._answer(work))
            except (RejectedError, IntegrityError) as error:
                self.ledger.fail(work.request, work.row, str(error))
                return
            if self._finish(work, prepared):
                return

    def report_failed(self, argument: str, reason: str) -> None:
        """The job ended in a fault of the hub."""
        work = self._begin(argument)
        if work is not None:
            self.ledger.fail(work.request, work.row, reason)

    def _begin(self, argument: str) -> _Work | None:
        """None where there is nothing to do: it is made, or a newer one was asked for."""
        request_id, _, number = argument.rpartition("#")
        with self.database.write() as connection:
            request = results.get_request(connection, request_id)
            versions = report_versions.versions_of(connection, request_id)
            row = next(row for row in versions if row.version == int(number))
            if row.state is not VersionState.ASKED:
                return None
            if row is not versions[-1]:
                self.ledger.pass_over(connection, request, row)
                return None
        return _Work(request, row, versions)

    def _finish(self, work: _Work, prepared: PreparedReport) -> bool:
        """False where another version was asked for, or made, meanwhile."""
        request = work.request
        with self.database.write() as connection:
            self.maker.deliveries.lock(connection, request.study.study_instance_uid)
            results.get_request(connection, request.request_id)  # locked against who decides
            if report_versions.versions_of(connection, request.request_id) != work.versions:
                return False
            self.ledger.finish(connection, request, work.row)
            self._send(connection, request, prepared)
        return True

    # --- what a version is made from -------------------------------------------------------

    def _answer(self, work: _Work) -> _Answer:
        """The answer that the version is about, as people have changed it by now.

        Raises:
            RejectedError: what it needs was deleted.
            IntegrityError: the record cannot be read.
        """
        if work.row.cause is ReportCause.MODEL:
            answer = self._failure(work)
        else:
            answer = self._recorded(work)
        with self.database.read() as connection:
            patient = patients.current_identity(connection, answer.request.study.patient)
        return _following(answer, patient)

    def _recorded(self, work: _Work) -> _Answer:
        name = work.request.request_id
        with self.database.read() as connection:
            kept = report_versions.documents_of(connection, name, (DocumentKind.RECORD,))
            findings = effective_findings(connection, name, work.versions)
        if not kept:
            raise RejectedError("the record of the answer was deleted")
        record = _decode(self.maker.documents.get(kept[0].sha256))
        card = self._registered(work.request.model) or record.card
        result = record.result
        if any(row.changes is not None for row in work.versions):
            result = replace(
                result, findings=marked(findings, rules_of(self.routes, work.request.route, card))
            )
        return _Answer(record.request, result, card)

    def _failure(self, work: _Work) -> _Answer:
        """What a report of a request says that ended without an answer."""
        row = work.request
        with self.database.read() as connection:
            study = instances.load_study(connection, row.study)
            amends = results.amended_revision(connection, row)
        request = InferenceRequest(
            request_id=row.request_id,
            model=row.model,
            route=row.route,
            priority=row.priority,
            study=study,
            inputs=(ImagingInput(InputRole.CURRENT, study.with_series(row.series_instance_uids)),),
            reasons=row.reasons,
            amends_revision=amends,
        )
        result = InferenceResult(
            request_id=row.request_id,
            model=row.model,
            identity=study.identity,
            outcome=Outcome.FAILED,
            reasons=(FAILED_REASON,),
        )
        return _Answer(request, result, self._card_of_failed(row), is_new=True)

    def _card_of_failed(self, row: RequestRow) -> ModelCard:
        """That of the model that was asked; where it is gone, the nearest that is known."""
        card = self._registered(row.model)
        if card is not None:
            return card
        running = self.maker.registry.models.get(row.model.model_id)
        if running is not None:
            return replace(running.package.card, version=row.model.version)
        with self.database.read() as connection:
            line = report_versions.line_of(connection, row)
            kinds = (DocumentKind.RECORD,)
            kept = [k for one in line for k in report_versions.documents_of(connection, one, kinds)]
        if not kept:
            raise RejectedError(f"nothing is known of model {row.model}, which is not configured")
        known: ModelCard = _decode(self.maker.documents.get(kept[0].sha256)).card
        return replace(known, version=row.model.version)

    def _registered(self, key: ModelKey) -> ModelCard | None:
        return self.maker.registry.card(key)

    # --- making ----------------------------------------------------------------------------

    def _prepared(self, row: RequestRow, version: VersionRow, answer: _Answer) -> PreparedReport:
        with self.database.read() as connection:
            line = report_versions.line_of(connection, row)
            before = report_versions.receivers(connection, line)
            replaced = report_versions.replaced_findings(connection, line)
        report = ReportVersion(
            number=version.version,
            status=version.status,
            cause=version.cause,
            reason=version.reason,
            person=version.person,
            replaced_findings=replaced,
        )
        wanted = {} if row.shadow else self._wanted(row, version, answer.result, before)
        if self.maker.shows_reports and not row.shadow:
            wanted[SHOWN] = (DocumentKind.FHIR,)
        maker = replace(self.maker, encoders=self._encoders(version, answer))
        made = maker.make(
            answer.request,
            answer.result,
            answer.card,
            report,
            destinations=wanted,
            earlier=self._earlier(version, answer),
            made_at=version.made_at,
            predecessors=lambda names: self._predecessors(line, version, names),
        )
        filed = maker.store(made, version.version)
        if answer.is_new:
            filed = (*filed, self._filed_record(answer, report))
        critical = any(finding.critical for finding in answer.result.findings)
        missing = () if row.shadow else self._missing(row, version, before)
        return PreparedReport(version, made, filed, Priority.STAT if critical else None, missing)

    def _wanted(
        self,
        row: RequestRow,
        version: VersionRow,
        result: InferenceResult,
        before: frozenset[str],
    ) -> dict[str, tuple[DocumentKind, ...]]:
        """Who gets it: whoever takes such results, and whoever got the report before, which must
        not stand there as if it were the last word."""
        known = self.maker.registry.destinations
        names = dict.fromkeys((*row.deliver_to, *sorted(before)))
        return self.maker.wanted(
            name
            for name in names
            if name in before
            or (name in known and not version.is_withdrawn and _takes(known[name], result))
        )

    def _missing(
        self, row: RequestRow, version: VersionRow, before: frozenset[str]
    ) -> tuple[str, ...]:
        """Who should get it, and was taken out of the configuration."""
        due = before if version.is_withdrawn else before | set(row.deliver_to)
        return tuple(sorted(due - set(self.maker.registry.destinations)))

    def _encoders(self, version: VersionRow, answer: _Answer) -> Mapping[DocumentKind, Encoder]:
        """What shows the findings alone is not made again as long as they stay as they are."""
        left_out = {DocumentKind.RECORD}
        if not (answer.is_new or answer.is_followed or version.cause in _MADE_ANEW):
            left_out |= set(_OF_THE_FINDINGS)
        every = self.maker.encoders
        return {kind: encoder for kind, encoder in every.items() if kind not in left_out}

    def _earlier(self, version: VersionRow, answer: _Answer) -> dict[DocumentKind, Document]:
        """The documents of the answer that are not made again. Nothing new refers to what is
        withdrawn."""
        if answer.is_new or answer.is_followed or version.is_withdrawn:
            return {}
        if version.cause in _BELONG_TO_OTHERS:
            return {}
        kinds = (*_WITH_VOXELS, *_OF_THE_FINDINGS)
        with self.database.read() as connection:
            kept = report_versions.documents_of(connection, version.request_id, kinds)
        found: dict[DocumentKind, Document] = {}
        identity, request_id = answer.result.identity, version.request_id
        for one in kept:
            if one.kind not in found:
                content = self.maker.documents.get(one.sha256)
                found[one.kind] = Document(one.document_id, one.kind, request_id, identity, content)
        return found

    def _predecessors(
        self, line: tuple[str, ...], version: VersionRow, destinations: tuple[str, ...]
    ) -> tuple[PreviousDocument, ...]:
        """The last object of each kind that these destinations got; of a report that is withdrawn
        all objects."""
        with self.database.read() as connection:
            kept = report_versions.sent_objects(connection, line, destinations)
        first = {one.kind: one for one in reversed(kept)}
        chosen = kept if version.is_withdrawn else tuple(first.values())
        return tuple(
            _previous_document(one.kind, self.maker.documents.get(one.sha256))
            for one in chosen
            if one.kind is not DocumentKind.REJECTION_NOTE
        )

    def _filed_record(self, answer: _Answer, report: ReportVersion) -> FiledDocument:
        context = replace(self.maker.context(), report=report)
        encode = self.maker.encoders[DocumentKind.RECORD]
        document = encode(answer.request, answer.result, answer.card, context, {})
        if document is None:
            raise IntegrityError("an answer has no record")
        return FiledDocument(
            document, self.maker.documents.put(document.content), report.number, ""
        )


def _takes(destination: RunningDestination, result: InferenceResult) -> bool:
    """Whether a destination gets results like this one."""
    if result.outcome not in destination.outcomes:
        return False
    return not destination.critical_only or any(finding.critical for finding in result.findings)


def _following(answer: _Answer, patient: PatientIdentity) -> _Answer:
    """The answer about the patient as he is now: renamed or merged since."""
    request, result = answer.request, answer.result
    if patient == request.study.patient:
        return answer
    inputs = tuple(
        _of_patient(given, patient)
        if isinstance(given, ImagingInput) and given.role is InputRole.PRIOR
        else given
        for given in request.inputs
    )
    return replace(
        answer,
        request=replace(request, study=replace(request.study, patient=patient), inputs=inputs),
        result=replace(result, identity=replace(result.identity, patient=patient)),
        is_followed=True,
    )


def _of_patient(given: ImagingInput, patient: PatientIdentity) -> ImagingInput:
    """Priors were found to be this patient's own when the model was asked."""
    series = tuple(
        replace(one, instances=tuple(replace(i, patient=patient) for i in one.instances))
        for one in given.series
    )
    return replace(given, series=series)
