"""Instance Availability Notification SCP (PS3.4 annex R): an archive or a workflow manager says
which instances of a study there are."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

from pydicom.dataset import Dataset

from connectors.dicom.config import DicomSourceConfig
from connectors.dicom.normalized import CommandField, NormalizedRequest, NormalizedResponse
from connectors.dicom.normalized_data import (
    MISSING_ATTRIBUTE,
    NO_SUCH_OPERATION,
    decoded,
    items,
    required_uid,
    text,
    uid,
)
from connectors.dicom.services import Handler, RefusedError, reading
from hub.ports import Expectation, ExpectationSource, Knowledge, NamedSeries, SourceContext

_SUCCESS = 0x0000
_UNAVAILABLE = "UNAVAILABLE"
"""Instance Availability (0008,0056): it cannot be retrieved."""


@dataclass(frozen=True, slots=True)
class AvailabilityNotificationService:
    """Answers N-CREATE."""

    knowledge: Knowledge

    def __call__(self, request: NormalizedRequest) -> NormalizedResponse:
        """Answer.

        Raises:
            RefusedError: with the status that PS3.4 R.3.2 gives.
            TransientError: it cannot be recorded now.
        """
        if request.command is not CommandField.N_CREATE:
            raise RefusedError(NO_SUCH_OPERATION, "only N-CREATE is offered")
        with reading():
            data_set = decoded(request)
            study = required_uid(data_set, "StudyInstanceUID")
            series = items(data_set, "ReferencedSeriesSequence")
            if not series:
                raise RefusedError(MISSING_ATTRIBUTE, "ReferencedSeriesSequence is missing")
            available = tuple(_available(one) for one in series)
        named = tuple(dict.fromkeys(name for one in available for name in one.sop_instance_uids))
        if named:
            source = ExpectationSource.AVAILABILITY_NOTIFICATION
            self.knowledge.expect(
                Expectation(study, source, sop_instance_uids=named, series=available)
            )
        name = request.sop_instance_uid or f"2.25.{uuid4().int}"
        return NormalizedResponse(_SUCCESS, sop_instance_uid=name)


def _available(series: Dataset) -> NamedSeries:
    found = (
        uid(reference, "ReferencedSOPInstanceUID")
        for reference in items(series, "ReferencedSOPSequence")
        if text(reference, "InstanceAvailability") != _UNAVAILABLE
    )
    return NamedSeries(uid(series, "SeriesInstanceUID"), tuple(dict.fromkeys(filter(None, found))))


def service(config: DicomSourceConfig, context: SourceContext) -> Handler:  # noqa: ARG001
    """The handler (`connectors.dicom.services`)."""
    return AvailabilityNotificationService(context.knowledge)
