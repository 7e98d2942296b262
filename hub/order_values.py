"""What an order of measured values needs: the patient, and the values, from all who have them.

A record that cannot be asked, or that knows the patient otherwise than the order does, is never
read as "no value": the order waits, or stops and says why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

import sqlalchemy as sa

from hub.domain.coding import Code
from hub.domain.identity import PatientIdentity
from hub.domain.observation import Observation
from hub.domain.order import Order
from hub.errors import RejectedError, TransientError
from hub.ports import HealthRecord
from hub.store import observations, patients
from hub.store.database import Database

_KNOWN_BY = {"patient_birth_date": "birth date", "patient_sex": "sex"}


class RecordRefusedError(RejectedError):
    """A health record does not give its values to the hub: that is no fault of whoever asked."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a case is made of."""

    patient: PatientIdentity
    values: tuple[Observation, ...]
    """The newest first; each resource once."""


@dataclass(frozen=True, slots=True)
class OrderValues:
    """Gathers values; every field is shared by the jobs of one process."""

    database: Database
    records: Mapping[str, HealthRecord] = field(default_factory=dict)
    """By name in the configuration."""

    def gather(self, order: Order, codes: Collection[Code]) -> Gathered:
        """The values of these codes: as the records have them now, then as sources sent them.

        Raises:
            TransientError: a record cannot be asked now.
            RejectedError: a record does not know the patient, or contradicts the order about him.
            RecordRefusedError: it knows him, and does not give his values.
        """
        with self.database.read() as connection:
            patient = current(connection, order.patient)
            sent = observations.of_patient(connection, patient)
            if patient.key != order.patient.key:  # under the ID that the patient had before
                sent += observations.of_patient(connection, order.patient)
        told: list[Observation] = []
        for name, record in self.records.items():
            with _telling(name, RejectedError):
                patient = _completed(patient, record.patient(patient), name)
            with _telling(name, RecordRefusedError):
                told += record.observations(patient, tuple(codes), None)
        values = observations.chosen(codes, told, sent, order.observations)
        return Gathered(patient, values)

    def corrected(
        self,
        connection: sa.Connection,
        values: tuple[Observation, ...],
        gathered_at: datetime | None,
    ) -> tuple[Observation, ...]:
        """The values of a case as they stand now, where a source said something else since. What a
        record said when it was asked counts more than what sources had sent before."""
        if not values:
            return ()
        patient = values[0].patient
        sent = observations.Corrections.among(observations.of_patient(connection, patient))
        late = observations.Corrections.among(
            observations.of_patient(connection, patient, after=gathered_at)
        )
        told = (late if value.source in self.records else sent for value in values)
        return tuple(
            next(iter(by.of(value)), value) for by, value in zip(told, values, strict=True)
        )


@contextmanager
def _telling(record: str, refused: type[RejectedError]) -> Iterator[None]:
    """Say which record it is."""
    try:
        yield
    except TransientError as error:
        message = f"health record {record} could not be asked: {error}"
        raise TransientError(message, retry_after=error.retry_after) from error
    except RejectedError as error:
        raise refused(f"health record {record}: {error}") from error


def current(connection: sa.Connection, patient: PatientIdentity) -> PatientIdentity:
    """The patient as he is now."""
    return patients.current_identity(connection, patient)


def _completed(known: PatientIdentity, told: PatientIdentity, record: str) -> PatientIdentity:
    """The order's patient, with what only the record knows.

    Raises:
        RejectedError: they contradict each other; names the field, never a value.
    """
    if told.key != known.key:
        raise RejectedError(f"health record {record} answers about another patient")
    for name, words in _KNOWN_BY.items():
        ours, theirs = getattr(known, name), getattr(told, name)
        if ours and theirs and ours != theirs:
            raise RejectedError(f"the patient has another {words} there than in the order")
    return replace(
        known,
        patient_name=known.patient_name or told.patient_name,
        patient_birth_date=known.patient_birth_date or told.patient_birth_date,
        patient_sex=known.patient_sex or told.patient_sex,
    )
