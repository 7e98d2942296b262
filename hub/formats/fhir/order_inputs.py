"""What a Task or ServiceRequest is about: the study and the values that it leads to, directly or
through the request that it fulfils (R4 task.html, "Fulfilling a request")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hub.domain.observation import Observation
from hub.errors import RejectedError
from hub.formats.fhir.imaging_study import DICOM_UID, study_instance_uid_of
from hub.formats.fhir.intake import (
    Json,
    Located,
    Message,
    Patients,
    Subject,
    identifier_in,
    type_in,
)
from hub.formats.fhir.observation import observation_of
from hub.formats.fhir.outcome import unprocessable

KnownValue = Callable[[Json], Observation | None]
"""A reference that leads out of the message -> the value, if it was sent before."""

_DICOMWEB = "dicom-wado-rs"
_STUDY, _VALUE, _REQUEST = "ImagingStudy", "Observation", "ServiceRequest"
_WITHDRAWN = ("cancelled", "entered-in-error")


@dataclass
class OrderInputs:
    """What was found."""

    study_instance_uids: list[str] = field(default_factory=list)
    studies: list[Located] = field(default_factory=list)
    """Those that the message holds."""
    observations: list[Observation] = field(default_factory=list)
    requests: list[Located] = field(default_factory=list)
    """The ServiceRequests of the message that it is based on."""
    subjects: list[tuple[str, Subject]] = field(default_factory=list)
    """Whom each of them is about, by place."""


@dataclass(frozen=True, slots=True)
class InputReader:
    """Follows the references of an order through its message."""

    message: Message
    patients: Patients
    source: str
    known: KnownValue

    def inputs_of(self, order: Located) -> OrderInputs:
        """Everything that a Task or ServiceRequest leads to, each once.

        Raises:
            Refused: it leads to something that cannot be read, or nowhere.
        """
        found, seen = OrderInputs(), {id(order.resource)}
        waiting = [(order, reference) for reference in _references(order)]
        waiting += [(order, reference) for reference in self._requests(order)]
        while waiting:
            at, reference = waiting.pop(0)
            located = self.message.lead(reference, at)
            if located is None:
                self._outside(reference, at, found)
            elif id(located.resource) not in seen:
                seen.add(id(located.resource))
                self._inside(located, order, found)
                waiting += [(located, inner) for inner in _references(located)]
        return found

    def value_of(self, located: Located) -> Observation:
        """An Observation of the message as a measured value.

        Raises:
            Refused: whose it is cannot be told, or an element cannot be read.
        """
        resource, url = located.resource, located.full_url
        patient = self.patients.known(resource.get("subject"), located, "subject")
        absolute = url.startswith(("http://", "https://")) and located.root is None
        try:
            return observation_of(
                resource, patient=patient, reference=url if absolute else "", source=self.source
            )
        except RejectedError as error:
            raise unprocessable(str(error), located.place, "value") from None

    def _requests(self, order: Located) -> Iterator[Json]:
        """``basedOn``, where it leads to a ServiceRequest of the message. What else a Task is
        based on is no input."""
        for reference in _list(order.resource, "basedOn") if order.kind == "Task" else ():
            located = self.message.lead(reference, order) if isinstance(reference, dict) else None
            if isinstance(reference, dict) and located is not None and located.kind == _REQUEST:
                yield reference

    def _inside(self, located: Located, order: Located, found: OrderInputs) -> None:
        match located.kind:
            case "ImagingStudy":
                self._study(located, found)
            case "Observation":
                found.observations.append(self.value_of(located))
            case "ServiceRequest":
                found.requests.append(located)
            case "DiagnosticReport":
                pass  # its results follow
            case _ if order.kind == "Task":
                text = "Task.input leads to what the hub cannot read: no study, no value"
                raise unprocessable(text, order.place, "not-supported")
            case _:
                return  # supportingInfo tells people more than a model reads
        subject = self.patients.of(located.resource.get("subject"), located, "subject")
        found.subjects.append((located.place, subject))

    def _study(self, located: Located, found: OrderInputs) -> None:
        if located.resource.get("status") in _WITHDRAWN:
            raise unprocessable("the ImagingStudy was withdrawn", f"{located.place}.status")
        try:
            uid = study_instance_uid_of(located.resource)
        except RejectedError as error:
            raise unprocessable(str(error), f"{located.place}.identifier", "value") from None
        found.studies.append(located)
        _add_study(uid, found)

    def _outside(self, reference: Json, at: Located, found: OrderInputs) -> None:
        identifier, kind = identifier_in(reference), type_in(reference)
        if identifier is not None and identifier.get("system") == DICOM_UID:
            try:
                _add_study(study_instance_uid_of({"identifier": [identifier]}), found)
            except RejectedError as error:
                raise unprocessable(str(error), at.place, "value") from None
        elif kind == _STUDY:
            text = f"the ImagingStudy is not in the message: put its {DICOM_UID} identifier beside"
            raise unprocessable(text, at.place, "not-found")
        elif kind == _VALUE:
            value = self.known(reference)
            if value is None:
                text = "an Observation is neither in the message nor was it sent before"
                raise unprocessable(text, at.place, "not-found")
            found.observations.append(value)
            found.subjects.append((at.place, Subject((value.patient,))))
        elif at.kind == "Task" and kind not in ("", _REQUEST):
            text = "Task.input leads to what the hub cannot read: no study, no value"
            raise unprocessable(text, at.place, "not-supported")


def _add_study(uid: str, found: OrderInputs) -> None:
    if uid not in found.study_instance_uids:
        found.study_instance_uids.append(uid)


def _references(located: Located) -> Iterator[Json]:
    """Where an order, or what it leads to, refers to inputs."""
    resource = located.resource
    match located.kind:
        case "Task":
            inputs = [one for one in _list(resource, "input") if isinstance(one, dict)]
            named = [resource.get("focus"), *(one.get("valueReference") for one in inputs)]
        case "ServiceRequest":
            named = _list(resource, "supportingInfo")
        case "Observation":
            named = _list(resource, "hasMember")
        case "DiagnosticReport":
            named = _list(resource, "result")
        case _:
            named = []
    yield from (one for one in named if isinstance(one, dict))


def endpoint_of(study: Located, message: Message) -> str:
    """Base URL of the DICOMweb service that an ImagingStudy names (R4 endpoint.html); empty: none
    in this message."""
    listed = [*_list(study.resource, "endpoint")]
    for series in _list(study.resource, "series"):
        listed += _list(series, "endpoint") if isinstance(series, dict) else []
    for reference in listed:
        located = message.lead(reference, study) if isinstance(reference, dict) else None
        if located is None or located.kind != "Endpoint":
            continue
        kind = located.resource.get("connectionType")
        code = kind.get("code") if isinstance(kind, dict) else None
        if code == _DICOMWEB and located.resource.get("status", "active") == "active":
            return str(located.resource.get("address", "")).rstrip("/")
    return ""


def _list(resource: Json, name: str) -> list[object]:
    value = resource.get(name, [])
    return value if isinstance(value, list) else []
