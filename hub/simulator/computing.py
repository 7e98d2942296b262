"""Answers of a real model: the vendor's side runs it by an installed adapter, as a hub would."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import httpx
import structlog

from hub.domain.identity import PatientIdentity
from hub.domain.inference import (
    Deferred,
    ImagingInput,
    InferenceRequest,
    InferenceResult,
    Input,
    InputRole,
    ObservationInput,
    Priority,
    Unsuitable,
)
from hub.domain.study import Completeness, EvidenceKind, Series, Study, StudyKey
from hub.errors import CaidxError, ConfigError, ConfigProblem, RejectedError, TransientError
from hub.formats.contract.answer import FailureReason
from hub.formats.contract.messages import encode_answer, encode_failed
from hub.formats.contract.observation import observation_of
from hub.formats.contract.request import DicomInputMessage, RequestMessage
from hub.ports import AdapterContext, Clock, ModelAdapter, ModelPackage
from hub.registry import Components
from hub.simulator.answers import asked_model
from hub.simulator.images import FolderStore, retrieved

_TRY_AGAIN_SECONDS = 2.0

log = structlog.get_logger(__name__)


class ComputedAnswers:
    """`hub.simulator.answers.Answers` of a package. Objects lie in a temporary folder while their
    request is worked on.

    Args:
        package: the model; it may have another id than the one that the hub asks for, as the
            hub's manifest is about this service.
        components: what is installed.
        clock: the time.
        client: gets the images.

    Raises:
        ConfigError: no adapter runs it, or it is not what its manifest says.
        TransientError: it cannot be loaded now.
    """

    def __init__(
        self, package: ModelPackage, components: Components, clock: Clock, client: httpx.Client
    ) -> None:
        self._package = package
        self._clock = clock
        self._client = client
        self._root = Path(tempfile.mkdtemp(prefix="caidx-vendor-"))
        self._store = FolderStore(self._root)
        self._adapter = _adapter(package, components, clock, self._store)
        self._adapter.load(package)

    def answer(self, message: RequestMessage) -> bytes:
        """As ``Answers``."""
        try:
            return self._answer(message)
        except TransientError as error:
            return self._failed(message, "model-not-available", error)
        except CaidxError as error:
            return self._failed(message, "internal-error", error)
        finally:
            shutil.rmtree(self._root / message.request_id, ignore_errors=True)

    def _answer(self, message: RequestMessage) -> bytes:
        try:
            request = self._request(message)
        except TransientError as error:
            return self._failed(message, "images-not-retrieved", error)
        except RejectedError as error:
            return self._failed(message, "images-not-readable", error)
        answer = self._adapter.infer(request)
        if isinstance(answer, Deferred):
            raise RejectedError("the simulator runs only models that answer at once")
        if isinstance(answer, Unsuitable):
            return encode_answer(answer)
        return encode_answer(_as_asked(answer, message))

    def _failed(self, message: RequestMessage, reason: FailureReason, error: CaidxError) -> bytes:
        log.warning("vendor.failed", request_id=message.request_id, error=error)
        is_passing = isinstance(error, TransientError)
        return encode_failed(
            message.request_id,
            reason,
            retryable=is_passing,
            retry_after_seconds=_TRY_AGAIN_SECONDS if is_passing else None,
        )

    def close(self) -> None:
        """Stop the model, and leave no object behind."""
        self._adapter.close()
        shutil.rmtree(self._root, ignore_errors=True)

    # --- the request as the adapter wants it ---------------------------------------------------

    def _request(self, message: RequestMessage) -> InferenceRequest:
        patient = _patient(message)
        inputs = tuple(self._inputs(message, patient))
        study = _study(message, patient, inputs)
        return InferenceRequest(
            request_id=message.request_id,
            model=self._package.key,
            route=message.route,
            priority=Priority[message.priority.upper()],
            study=study,
            inputs=inputs,
            reasons=message.trigger.reasons,
            parameters=message.parameters,
            deadline=message.constraints.deadline,
        )

    def _inputs(self, message: RequestMessage, patient: PatientIdentity) -> list[Input]:
        found: list[Input] = []
        for given in message.inputs:
            role = InputRole(given.role)
            if isinstance(given, DicomInputMessage):
                series = retrieved(self._client, given, self._store, message.request_id)
                found.append(ImagingInput(role, series))
            else:
                values = tuple(observation_of(one, patient) for one in given.resources)
                found.append(ObservationInput(role, values))
        return found


def _adapter(
    package: ModelPackage, components: Components, clock: Clock, store: FolderStore
) -> ModelAdapter:
    wanted = package.card.runtime.kind
    for name, kind in components.adapters.items():
        if kind.runtime_kind == wanted:
            context = AdapterContext(name=name, objects=store, clock=clock)
            return kind.build(kind.config(), context)
    problem = ConfigProblem(str(package.directory), 0, "runtime.kind", f"nothing runs {wanted}")
    raise ConfigError((problem,))


def _as_asked(result: InferenceResult, message: RequestMessage) -> InferenceResult:
    """Under the names that the hub asked with."""
    return replace(result, request_id=message.request_id, model=asked_model(message))


def _patient(message: RequestMessage) -> PatientIdentity:
    """Nobody: sex, and a birth date that makes the age at the examination."""
    return PatientIdentity(
        patient_id="", patient_sex=message.patient.sex, patient_birth_date=_birth_date(message)
    )


def _birth_date(message: RequestMessage) -> str:
    age, examined = message.patient.age_years, message.study.study_date
    if age is None or not examined:
        return ""
    try:
        day = date(int(examined[:4]), int(examined[4:6]), int(examined[6:]))
        if age < 1:
            return date.fromordinal(day.toordinal() - round(age * 365.25)).strftime("%Y%m%d")
        born = day.replace(year=day.year - int(age), day=min(day.day, 28))
    except ValueError:
        return ""
    return born.strftime("%Y%m%d")


def _study(message: RequestMessage, patient: PatientIdentity, inputs: tuple[Input, ...]) -> Study:
    current = [given for given in inputs if given.role is InputRole.CURRENT]
    series = tuple(s for i in current if isinstance(i, ImagingInput) for s in i.series)
    values = tuple(o for i in current if isinstance(i, ObservationInput) for o in i.observations)
    evidence = EvidenceKind.ORDERED_VALUES if values else EvidenceKind.EXPECTED_COUNT
    return Study(
        key=StudyKey(message.study.study_instance_uid, message.study.revision),
        patient=patient,
        accession_number="",
        issuer_of_accession_number="",
        study_date=message.study.study_date,
        study_time="",
        study_description=message.study.study_description,
        study_id="",
        referring_physician_name="",
        series=series,
        completeness=Completeness(
            complete=True, evidence=evidence, received=_count(series), expected=None
        ),
        received_at=message.study.received_at,
        observations=values,
    )


def _count(series: tuple[Series, ...]) -> int:
    return sum(len(one.instances) for one in series)
