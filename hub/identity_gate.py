"""The identity gate (hub.pipeline, steps 5 and 7): nothing reaches the wrong patient.

It stands twice: before a result is encoded, and before each document is sent, for in between
records are merged, images of a stranger arrive, files rot. A patient who was renamed or merged
is followed. Whatever does not fit is an `IntegrityError`: it is quarantined, and a named person
releases or discards it (hub/store/quarantine.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import sqlalchemy as sa

from hub.domain.delivery import Document
from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.domain.inference import (
    InferenceRequest,
    InferenceResult,
    Input,
    InputRole,
    ObservationInput,
)
from hub.domain.model_card import ModelCard
from hub.domain.observation import Observation
from hub.domain.order import Order
from hub.domain.study import Series, Study
from hub.errors import IntegrityError
from hub.formats.encoding import check_document_identity
from hub.ports import at_first_call
from hub.store import accession_numbers, order_rows, patients, report_versions
from hub.store.database import Database
from hub.store.deliveries import DeliveryTask
from hub.store.journal import Journal
from hub.store.results import RequestRow
from hub.store.schema import requests, studies

FOLLOWED = (
    "the patient's identification was changed after the images were made;"
    " this report has the current one"
)
"""A warning in the result; what it was and is stands nowhere but in the patient's own fields."""
SHARED_ACCESSION_NUMBER = "another patient's study has the same accession number"

_check_result = at_first_call("hub.formats.invariants:check_result")
_contradictions = at_first_call("hub.formats.document_identity:contradictions")

Current = Callable[[PatientIdentity], PatientIdentity]


class PatientChangedError(IntegrityError):
    """The document was made before the patient was renamed or merged: another one has to be
    made, and nobody has to decide anything."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A result that may be encoded."""

    request: InferenceRequest
    """About the patient as he is now."""
    result: InferenceResult
    followed: bool
    """Whether the patient changed after the images were made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityGate:
    """What is looked up, and what is decided."""

    database: Database
    unique_accession_numbers: bool = True
    """Whether an accession number of one issuer belongs to one patient."""

    # --- before encoding -------------------------------------------------------------------

    def verify(
        self, request: InferenceRequest, result: InferenceResult, card: ModelCard
    ) -> Verified:
        """Patient, study, order, model and images of a result are those of its request, and the
        result could be true of them. A patient who changed since is followed.

        Raises:
            IntegrityError: they are not; nothing of the result leaves the hub.
        """
        with self.database.read() as connection:

            def current(patient: PatientIdentity) -> PatientIdentity:
                return current_patient(connection, patient)

            verified = follow(request, result, current)
            check_document_identity(verified.request, verified.result)
            _check_result(verified.request, verified.result, card)
            identity = verified.request.study.identity
            if self._shares_a_number(connection, request.request_id, identity):
                raise IntegrityError(SHARED_ACCESSION_NUMBER)
            _check_order(connection, request.request_id, identity)
        return replace(verified, result=replace(verified.result, identity=identity))

    def _shares_a_number(
        self, connection: sa.Connection, request_id: str, identity: StudyIdentity
    ) -> bool:
        if not self.unique_accession_numbers:
            return False
        shared = accession_numbers.is_shared_with_another_patient(connection, identity)
        return shared and not _is_released(connection, request_id)

    # --- before delivery -------------------------------------------------------------------

    def check_delivery(self, task: DeliveryTask, document: Document) -> None:
        """The bytes say what the hub believes, and it is still true.

        Raises:
            PatientChangedError: it was; the patient was renamed or merged since.
            IntegrityError: it is not.
        """
        uid = task.delivery.study_instance_uid
        problems = list(_contradictions(document, task.identity))
        if task.identity.study_instance_uid != uid:
            problems.append("StudyInstanceUID of its delivery")
        if problems:
            raise IntegrityError(f"the document is not whose it should be: {', '.join(problems)}")
        with self.database.read() as connection:
            self._check_study(connection, document)

    def _check_study(self, connection: sa.Connection, document: Document) -> None:
        identity = document.identity
        query = sa.select(studies).where(
            studies.c.study_instance_uid == identity.study_instance_uid
        )
        study = connection.execute(query).one_or_none()
        if study is None:
            raise IntegrityError("the study of the document is not known")
        if study.problems:  # a stranger's image came after the report was made
            raise IntegrityError(f"the study is held back: {'; '.join(study.problems)}")
        patient = current_patient(connection, identity.patient)
        owner = PatientIdentity(study.patient_id, study.issuer_of_patient_id)
        if current_patient(connection, owner).key != patient.key:
            raise IntegrityError("the document is of another patient than the study")
        # The name is not kept beside the document: what was told since it was made counts.
        made_at = report_versions.made_at(connection, document.document_id)
        if patient.key != identity.patient.key or (
            made_at is not None and patients.is_changed_since(connection, patient, made_at)
        ):
            raise PatientChangedError(FOLLOWED)
        if self._shares_a_number(connection, document.request_id, identity):
            raise IntegrityError(SHARED_ACCESSION_NUMBER)
        _check_order(connection, document.request_id, identity)


def record_followed(
    connection: sa.Connection, journal: Journal, row: RequestRow, verified: Verified
) -> None:
    """Put on record that a patient was followed, in the transaction of the answer."""
    if verified.followed:
        journal.record(
            connection,
            "patient.followed",
            f"request:{row.request_id}",
            row.study.study_instance_uid,
        )


def order_mismatches(
    connection: sa.Connection, order: Order, identity: StudyIdentity
) -> tuple[str, ...]:
    """In what a study is not the one that an order names, by the names of the fields. Patients are
    compared as they are now; what one side does not know is not compared, but for the patient
    ID and its issuer.

    Args:
        connection: to follow the order's patient.
        order: as it was placed.
        identity: of the study, with its patient as he is now.
    """
    ordered, found = current_patient(connection, order.patient), identity.patient
    pairs = {
        "StudyInstanceUID": (order.study_instance_uid, identity.study_instance_uid),
        "PatientID": (ordered.patient_id, found.patient_id),
        "IssuerOfPatientID": (ordered.issuer_of_patient_id, found.issuer_of_patient_id),
    }
    if_known = {
        "PatientBirthDate": (ordered.patient_birth_date, found.patient_birth_date),
        "AccessionNumber": (order.accession_number, identity.accession_number),
        "IssuerOfAccessionNumber": (
            order.issuer_of_accession_number,
            identity.issuer_of_accession_number,
        ),
    }
    pairs |= {name: pair for name, pair in if_known.items() if all(pair)}
    unlike = [name for name, (wanted, got) in pairs.items() if wanted != got]
    return tuple(unlike) if ordered.patient_id else ("PatientID", *unlike)


def _check_order(connection: sa.Connection, request_id: str, identity: StudyIdentity) -> None:
    """Raises:
    IntegrityError: the order that led to a request is of another patient, study or number.
    """
    order = order_rows.order_of_request(connection, request_id)
    if order is None or _is_released(connection, request_id):
        return
    problems = order_mismatches(connection, order, identity)
    if problems:
        raise IntegrityError(f"the study is not what its order names: {', '.join(problems)}")


def current_patient(connection: sa.Connection, patient: PatientIdentity) -> PatientIdentity:
    """The patient as he is now; of one without an ID nobody can tell."""
    return patients.current_identity(connection, patient) if patient.patient_id else patient


def follow(request: InferenceRequest, result: InferenceResult, current: Current) -> Verified:
    """Request and result, about patients as they are now.

    A model that answers with the patient as the images name him is right, too; one that answers
    with somebody else is not, whoever that somebody has become.
    """
    patient = current(request.study.patient)
    answered = current(result.identity.patient)
    inputs = tuple(_current_input(given, current) for given in request.inputs)
    followed = patient != request.study.patient
    identity = replace(result.identity, patient=answered)
    warnings = (*result.warnings, FOLLOWED) if followed else result.warnings
    return Verified(
        replace(request, study=_current_study(request.study, patient, current), inputs=inputs),
        replace(result, identity=identity, warnings=warnings),
        followed,
    )


def _current_input(given: Input, current: Current) -> Input:
    """Priors belong to whom their own headers name; the study itself belongs to its patient."""
    if isinstance(given, ObservationInput):
        return replace(given, observations=_current_values(given.observations, current))
    if given.role is not InputRole.PRIOR:
        return given
    return replace(given, series=tuple(_current_series(one, current) for one in given.series))


def _current_study(study: Study, patient: PatientIdentity, current: Current) -> Study:
    values = _current_values(study.observations, current)
    return replace(study, patient=patient, observations=values)


def _current_values(values: tuple[Observation, ...], current: Current) -> tuple[Observation, ...]:
    known = {one.patient: current(one.patient) for one in values}
    return tuple(replace(one, patient=known[one.patient]) for one in values)


def _current_series(series: Series, current: Current) -> Series:
    known = {i.patient: current(i.patient) for i in series.instances}
    if all(before == now for before, now in known.items()):
        return series
    instances = tuple(replace(i, patient=known[i.patient]) for i in series.instances)
    return replace(series, instances=instances)


def _is_released(connection: sa.Connection, request_id: str) -> bool:
    """A person has looked at it, and answers for it."""
    query = sa.select(requests.c.released).where(requests.c.request_id == request_id)
    return connection.execute(query).scalar() is not None
