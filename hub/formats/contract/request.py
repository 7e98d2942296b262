"""``InferenceRequest`` as JSON: what a vendor's service is asked (contract 1.x)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from hub.domain.inference import (
    ImagingInput,
    InferenceRequest,
    Input,
    InputRole,
    ObservationInput,
    Priority,
)
from hub.domain.intended_use import age_years
from hub.domain.study import Instance, Series
from hub.formats.contract.observation import observation_resource
from hub.formats.contract.parts import (
    CONTRACT_VERSION,
    Lenient,
    RequestId,
    Sha256,
)
from hub.ports import Retrieval

PriorityName = Literal["stat", "urgent", "routine"]
Purpose = Literal["clinical", "test"]
_DATE = re.compile(r"[0-9]{8}")
_PRIORITIES: dict[Priority, PriorityName] = {
    Priority.STAT: "stat",
    Priority.URGENT: "urgent",
    Priority.ROUTINE: "routine",
}


class AskedModelMessage(Lenient):
    """The model that is asked."""

    id: str
    """As in the manifest."""
    version: str
    """As in the manifest."""
    sha256: Sha256
    """Digest of the package that the hub registered."""


class InstanceMessage(Lenient):
    """An image, or another object of a series."""

    sop_instance_uid: str
    """(0008,0018)"""
    sop_class_uid: str
    """(0008,0016)"""
    number_of_frames: int = Field(default=1, ge=1)
    """(0028,0008); 1 where the object has none."""
    sha256: Sha256 | None = None
    """Of the data set as the hub holds it, without preamble and file meta information. Left out
    where what is retrieved is not what the hub holds."""


class SeriesMessage(Lenient):
    """The objects of one series that the model is given."""

    series_instance_uid: str
    """(0020,000E)"""
    modality: str
    """(0008,0060)"""
    instances: tuple[InstanceMessage, ...]


class RetrieveMessage(Lenient):
    """Where the images are got: DICOMweb, WADO-RS (PS3.18 section 10.4)."""

    url: str
    """Base URL; `/studies/{study_instance_uid}/series/{series_instance_uid}` is below it. It shows
    the objects of this request only."""
    authorization: str = Field(repr=False)
    """Value of the `Authorization` header, for this URL and nothing else."""
    valid_until: datetime
    """Afterwards the images are not given any more."""


class DicomInputMessage(Lenient):
    """Images, of one examination."""

    kind: Literal["dicom"]
    role: Literal["current", "prior"]
    """`prior`: an earlier examination of the same patient; there may be several, the newest
    first."""
    study_instance_uid: str
    """(0020,000D)"""
    series: tuple[SeriesMessage, ...]
    retrieve: RetrieveMessage | None = None


class FhirInputMessage(Lenient):
    """Measured values, laboratory results above all."""

    kind: Literal["fhir"]
    role: Literal["current", "prior"]
    resources: tuple[dict[str, Any], ...]
    """FHIR R4 Observation resources, without `subject`: they are all of the request's patient."""


InputMessage = Annotated[DicomInputMessage | FhirInputMessage, Field(discriminator="kind")]


class StudyMessage(Lenient):
    """The examination that is asked about; of measured values, the case that was made of them."""

    study_instance_uid: str
    """(0020,000D). The answer says it back."""
    revision: int = Field(ge=1)
    """Late images make another one; see `amends_revision`."""
    modalities_in_study: tuple[str, ...] = ()
    """(0008,0061); of all series, also of those that the model is not given."""
    study_description: str = ""
    """(0008,1030)"""
    study_date: str = Field(default="", pattern=r"^([0-9]{8})?$")
    """(0008,0020), `YYYYMMDD`; empty where nobody says."""
    received_at: datetime
    """When the last object arrived at the hub; of measured values, when they were ordered: their
    age counts back from here."""


class PatientMessage(Lenient):
    """All that is said of the patient: never a name, an identifier or a birth date."""

    sex: Literal["M", "F", "O", ""] = ""
    """(0010,0040); empty where nobody says."""
    age_years: float | None = Field(default=None, ge=0)
    """At the examination: whole years from one year on, below it a fraction of the year. Absent
    where nobody says."""


class TriggerMessage(Lenient):
    """Why the question is asked."""

    kind: Literal["rule", "order"]
    """A rule of the hub matched, or somebody ordered it."""
    reasons: tuple[str, ...] = ()
    """The rule, and the series that it selected."""


class ConstraintsMessage(Lenient):
    """What the answer is bound by."""

    deadline: datetime | None = None
    """Nobody waits for an answer that comes later."""
    deidentification_profile: str = ""
    """By which profile the images and values were de-identified; empty: they were not."""


class CallbackMessage(Lenient):
    """Where the answer is posted to, if it is not given in the response."""

    url: str


class RequestMessage(Lenient):
    """A question to one model about one patient's examination or measured values.

    A vendor ignores fields that it does not know: later versions 1.x may add some.
    """

    contract: str = Field(pattern=r"^1\.[0-9]{1,3}$")
    """Version of the contract."""
    request_id: RequestId
    """The same question has the same identifier, however often it is sent: it is answered, and
    worked on, once."""
    model: AskedModelMessage
    route: str
    """Name of the hub's rule that asks."""
    priority: PriorityName
    trigger: TriggerMessage
    purpose: Purpose = "clinical"
    """`test`: nobody is treated by the answer."""
    study: StudyMessage
    patient: PatientMessage
    inputs: tuple[InputMessage, ...]
    parameters: dict[str, str] = Field(default_factory=dict)
    """From the hub's configuration of this model."""
    constraints: ConstraintsMessage
    callback: CallbackMessage | None = None
    """Absent: the answer is given in the response, or asked for."""
    amends_revision: int | None = Field(default=None, ge=1)
    """The answer replaces the one about this earlier revision of the study."""


def request_message(
    request: InferenceRequest,
    *,
    retrieve: Retrieval | None,
    callback_url: str,
    purpose: Purpose,
) -> RequestMessage:
    """The message about a request; see `hub.formats.contract.messages.encode_request`."""
    study = request.study
    return RequestMessage(
        contract=CONTRACT_VERSION,
        request_id=request.request_id,
        model=AskedModelMessage(
            id=request.model.model_id, version=request.model.version, sha256=request.model.sha256
        ),
        route=request.route,
        priority=_PRIORITIES[request.priority],
        trigger=TriggerMessage(
            kind="order" if request.order_id else "rule", reasons=tuple(request.reasons)
        ),
        purpose=purpose,
        study=StudyMessage(
            study_instance_uid=study.study_instance_uid,
            revision=study.key.revision,
            modalities_in_study=study.modalities_in_study,
            study_description=study.study_description,
            study_date=study.study_date if _DATE.fullmatch(study.study_date) else "",
            received_at=study.received_at,
        ),
        patient=_patient(request),
        inputs=tuple(_input(given, request, retrieve) for given in request.inputs),
        parameters=dict(request.parameters),
        constraints=ConstraintsMessage(deadline=request.deadline),
        callback=CallbackMessage(url=callback_url) if callback_url else None,
        amends_revision=request.amends_revision,
    )


def _patient(request: InferenceRequest) -> PatientMessage:
    sexes: dict[str, Literal["M", "F", "O"]] = {"M": "M", "F": "F", "O": "O"}
    return PatientMessage(
        sex=sexes.get(request.study.patient.patient_sex, ""),
        age_years=age_years(request.study, request.series),
    )


def _input(
    given: Input, request: InferenceRequest, retrieve: Retrieval | None
) -> DicomInputMessage | FhirInputMessage:
    if isinstance(given, ObservationInput):
        resources = tuple(observation_resource(one) for one in given.observations)
        return FhirInputMessage(kind="fhir", role=given.role.value, resources=resources)
    return DicomInputMessage(
        kind="dicom",
        role=given.role.value,
        study_instance_uid=_study_of(given, request),
        series=tuple(_series(one) for one in given.series),
        retrieve=None
        if retrieve is None
        else RetrieveMessage(
            url=retrieve.url,
            authorization=retrieve.authorization,
            valid_until=retrieve.valid_until,
        ),
    )


def _study_of(given: ImagingInput, request: InferenceRequest) -> str:
    if given.role is InputRole.PRIOR:
        return given.series[0].instances[0].study_instance_uid
    return request.study.study_instance_uid


def _series(series: Series) -> SeriesMessage:
    return SeriesMessage(
        series_instance_uid=series.series_instance_uid,
        modality=series.modality,
        instances=tuple(_instance(one) for one in series.instances),
    )


def _instance(instance: Instance) -> InstanceMessage:
    return InstanceMessage(
        sop_instance_uid=instance.sop_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        number_of_frames=instance.frames,
        sha256=instance.sha256 or None,
    )
