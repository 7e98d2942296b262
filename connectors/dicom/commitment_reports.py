"""Reports on storage commitment that we asked for (Storage Commitment Push Model, PS3.4 J.3.3).

An archive sends them on the association of the question or, mostly, on one that it opens to a
DICOM source of the hub, where it takes the role of the SCP.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from connectors.dicom.config import DicomSourceConfig
from connectors.dicom.normalized import CommandField, NormalizedRequest, NormalizedResponse
from connectors.dicom.normalized_data import (
    INVALID_ARGUMENT,
    NO_SUCH_OPERATION,
    decoded,
    items,
    required_uid,
)
from connectors.dicom.services import Handler, RefusedError, reading
from hub.ports import CommitmentReport, Knowledge, SourceContext

WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Storage Commitment Push Model SOP Instance (PS3.6 table A-1)."""

_SUCCESS = 0x0000
_NO_SUCH_EVENT_TYPE = 0x0113
_EVENT_TYPES = frozenset({1, 2})
"""All committed; some failed (PS3.4 J.3.3)."""
_PROCESSING_FAILURE = 0x0110
_MOST_INSTANCES = 100
"""In one report; a question of ours names one."""


def commitment_report(data_set: Dataset) -> CommitmentReport:
    """The Event Information of a report (PS3.4 table J.3-2).

    Raises:
        RefusedError: it has no Transaction UID, names an instance by no UID, or names too many.
        one of `services.UNREADABLE`: it cannot be read.
    """
    stored = items(data_set, "ReferencedSOPSequence")
    failed = items(data_set, "FailedSOPSequence")
    if len(stored) + len(failed) > _MOST_INSTANCES:
        raise RefusedError(INVALID_ARGUMENT, "the report names too many instances")
    return CommitmentReport(
        transaction_uid=required_uid(data_set, "TransactionUID"),
        committed=tuple(required_uid(one, "ReferencedSOPInstanceUID") for one in stored),
        failed=tuple(
            (
                required_uid(one, "ReferencedSOPInstanceUID"),
                int(one.get("FailureReason") or _PROCESSING_FAILURE),
            )
            for one in failed
        ),
    )


@dataclass(frozen=True, slots=True)
class CommitmentReportService:
    """Takes N-EVENT-REPORT; thread-safe."""

    knowledge: Knowledge

    def __call__(self, request: NormalizedRequest) -> NormalizedResponse:
        """Keep the report, and answer.

        Raises:
            RefusedError: with the status that PS3.7 10.1.1.1.8 gives.
            TransientError: it cannot be recorded now.
        """
        if request.command is not CommandField.N_EVENT_REPORT:
            raise RefusedError(NO_SUCH_OPERATION, "only N-EVENT-REPORT is taken")
        if request.event_type_id not in _EVENT_TYPES:
            raise RefusedError(_NO_SUCH_EVENT_TYPE, "the event types are 1 and 2")
        with reading():
            report = commitment_report(decoded(request))
        self.knowledge.commitment_answered(report)
        return NormalizedResponse(_SUCCESS, sop_instance_uid=WELL_KNOWN_INSTANCE)


def service(config: DicomSourceConfig, context: SourceContext) -> Handler:  # noqa: ARG001
    """The handler (`connectors.dicom.services`)."""
    return CommitmentReportService(context.knowledge)
