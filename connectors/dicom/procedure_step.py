"""Modality Performed Procedure Step SCP (PS3.4 F.7): what an examination consists of, from the
modality that made it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

from pydicom.dataset import Dataset

from connectors.dicom.config import DicomSourceConfig
from connectors.dicom.normalized import CommandField, NormalizedRequest, NormalizedResponse
from connectors.dicom.normalized_data import (
    INVALID_ATTRIBUTE,
    MISSING_ATTRIBUTE,
    NO_SUCH_OPERATION,
    decoded,
    items,
    required_uid,
    text,
    uid,
)
from connectors.dicom.services import PROCESSING_FAILURE, Handler, RefusedError, reading
from hub.ports import Knowledge, NamedSeries, ProcedureStep, SourceContext

_DUPLICATE_INSTANCE = 0x0111
_NO_SUCH_INSTANCE = 0x0112
_SUCCESS = 0x0000
_IN_PROGRESS = "IN PROGRESS"
_FINAL = ("COMPLETED", "DISCONTINUED")
_NO_LONGER = "Performed Procedure Step Object may no longer be updated"
"""The text that PS3.4 F.7.2.2.2 gives for Error ID 0xA506."""


@dataclass(frozen=True, slots=True)
class ProcedureStepService:
    """Answers N-CREATE and N-SET."""

    knowledge: Knowledge

    def __call__(self, request: NormalizedRequest) -> NormalizedResponse:
        """Answer.

        Raises:
            RefusedError: with the status that PS3.4 F.7.2 gives.
            TransientError: it cannot be recorded now.
        """
        if request.command is CommandField.N_CREATE:
            return self._create(request)
        if request.command is CommandField.N_SET:
            return self._set(request)
        raise RefusedError(NO_SUCH_OPERATION, "only N-CREATE and N-SET are offered")

    def _create(self, request: NormalizedRequest) -> NormalizedResponse:
        with reading():
            data_set = decoded(request)
        name = request.sop_instance_uid or f"2.25.{uuid4().int}"
        if self.knowledge.procedure_step(name) is not None:
            raise RefusedError(_DUPLICATE_INSTANCE, "this procedure step exists already")
        with reading():
            step = _new_step(name, data_set)
        self.knowledge.keep_procedure_step(step)
        return NormalizedResponse(_SUCCESS, sop_instance_uid=name)

    def _set(self, request: NormalizedRequest) -> NormalizedResponse:
        with reading():
            data_set = decoded(request)
        known = self.knowledge.procedure_step(request.sop_instance_uid)
        if known is None:
            raise RefusedError(_NO_SUCH_INSTANCE, "there is no such procedure step")
        if known.status != _IN_PROGRESS:
            raise RefusedError(PROCESSING_FAILURE, _NO_LONGER)
        with reading():
            step = _changed(known, data_set)
        self.knowledge.keep_procedure_step(step)
        return NormalizedResponse(_SUCCESS, sop_instance_uid=known.sop_instance_uid)


def _new_step(name: str, data_set: Dataset) -> ProcedureStep:
    status = text(data_set, "PerformedProcedureStepStatus")
    if not status:
        raise RefusedError(MISSING_ATTRIBUTE, "PerformedProcedureStepStatus is missing")
    if status != _IN_PROGRESS:
        raise RefusedError(INVALID_ATTRIBUTE, "a new procedure step must be IN PROGRESS")
    scheduled = items(data_set, "ScheduledStepAttributesSequence")
    if not scheduled:
        raise RefusedError(MISSING_ATTRIBUTE, "ScheduledStepAttributesSequence is missing")
    study = required_uid(scheduled[0], "StudyInstanceUID")
    return ProcedureStep(name, study, status, _made(data_set))


def _changed(known: ProcedureStep, data_set: Dataset) -> ProcedureStep:
    status = text(data_set, "PerformedProcedureStepStatus") or known.status
    if status not in {_IN_PROGRESS, *_FINAL}:
        raise RefusedError(INVALID_ATTRIBUTE, "PerformedProcedureStepStatus is unknown")
    made = _made(data_set) if "PerformedSeriesSequence" in data_set else known.series
    return ProcedureStep(known.sop_instance_uid, known.study_instance_uid, status, made)


def _made(data_set: Dataset) -> tuple[NamedSeries, ...]:
    """The performed series, each with its images and other instances; empty ones left out."""
    found = (
        NamedSeries(uid(series, "SeriesInstanceUID"), _instances(series))
        for series in items(data_set, "PerformedSeriesSequence")
    )
    return tuple(series for series in found if series.sop_instance_uids)


def _instances(series: Dataset) -> tuple[str, ...]:
    found = (
        uid(reference, "ReferencedSOPInstanceUID")
        for keyword in (
            "ReferencedImageSequence",
            "ReferencedNonImageCompositeSOPInstanceSequence",
        )
        for reference in items(series, keyword)
    )
    return tuple(dict.fromkeys(filter(None, found)))


def service(config: DicomSourceConfig, context: SourceContext) -> Handler:  # noqa: ARG001
    """The handler (`connectors.dicom.services`)."""
    return ProcedureStepService(context.knowledge)
