"""What the simulated vendor answers: a finding that is made up, or a model's own."""

from __future__ import annotations

from typing import Protocol

from hub.domain.coding import Code
from hub.domain.finding import Evidence, Finding, Presence
from hub.domain.identity import PatientIdentity, StudyIdentity, derived_uid
from hub.domain.inference import InferenceResult, ModelKey, Outcome
from hub.formats.contract.messages import encode_answer
from hub.formats.contract.request import DicomInputMessage, RequestMessage

MADE_UP = Code("60046008", "SCT", "Pleural effusion")
"""What the made-up finding is about; a manifest for the simulator declares it."""
MADE_UP_TRACKING_IDENTIFIER = "Pleural effusion"


class Answers(Protocol):
    """Something that can answer a request. Thread-safe."""

    def answer(self, message: RequestMessage) -> bytes:
        """An answer of the contract; whatever goes wrong is one, too."""
        ...

    def close(self) -> None: ...


class MadeUpAnswers:
    """A pleural effusion, in the first image of the request. Nothing is looked at."""

    def answer(self, message: RequestMessage) -> bytes:
        """As ``Answers``."""
        study_uid = message.study.study_instance_uid
        finding = Finding(
            tracking_uid=derived_uid(study_uid, message.model.id, MADE_UP_TRACKING_IDENTIFIER),
            tracking_identifier=MADE_UP_TRACKING_IDENTIFIER,
            code=MADE_UP,
            presence=Presence.PRESENT,
            probability=0.87,
            evidence=_first_image(message),
            statement="Made up by the simulator: pleural effusion.",
        )
        result = InferenceResult(
            request_id=message.request_id,
            model=asked_model(message),
            identity=StudyIdentity(study_uid, PatientIdentity(patient_id="")),
            outcome=Outcome.ASSESSED,
            findings=(finding,),
            warnings=("Made up by a simulated vendor; no image was looked at.",),
        )
        return encode_answer(result)

    def close(self) -> None:
        """Nothing is held."""


def asked_model(message: RequestMessage) -> ModelKey:
    """The model that was asked."""
    return ModelKey(message.model.id, message.model.version, message.model.sha256)


def _first_image(message: RequestMessage) -> tuple[Evidence, ...]:
    for given in message.inputs:
        if isinstance(given, DicomInputMessage) and given.role == "current":
            return (Evidence(given.series[0].instances[0].sop_instance_uid),)
    return ()
