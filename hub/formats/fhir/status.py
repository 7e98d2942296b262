"""Whose word a FHIR report is, as its status and as sentences.

The status follows from the version of the report (`hub.domain.report`) and from what became of
the request. Report and Observations always have the same one:

=====================  ===================================================================
``preliminary``        a model's answer that nobody has verified
``amended``            it replaces an earlier report (late images, another version), or a
                       person verified it with changes
``final``              a person accepted it
``cancelled``          there is no answer: unsuitable, or the processing failed
``entered-in-error``   rejected by a person, or withdrawn
=====================  ===================================================================

R4 says of ``amended`` "subsequent to being Final". A report of the hub has it also where an
unverified report replaces an unverified one, because receivers have to see that the earlier one
no longer holds. That nobody verified it stands all the same in the conclusion, in the label
``AIAST`` and in the lack of a ``resultsInterpreter``.
"""

from __future__ import annotations

from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.report import ReportCause, ReportStatus, ReportVersion
from hub.formats.encoding import (
    EncodingContext,
    amendment_statement,
    incomplete_statement,
)
from hub.formats.report_state import withdrawal_statement

PRELIMINARY = "preliminary"
FINAL = "final"
AMENDED = "amended"
CANCELLED = "cancelled"
ENTERED_IN_ERROR = "entered-in-error"

NO_ANSWER = (Outcome.UNSUITABLE, Outcome.FAILED)
"""Outcomes that are no examination at all: R4 ``cancelled``."""

_NEW_ANSWERS = (ReportCause.MODEL, ReportCause.PATIENT_CHANGED)


def report_status(
    request: InferenceRequest, result: InferenceResult, context: EncodingContext
) -> str:
    """R4 ``DiagnosticReport.status``, which is the status of the Observations too."""
    version = context.report
    if version.is_withdrawn:
        return ENTERED_IN_ERROR
    if result.outcome in NO_ANSWER:
        return CANCELLED
    if version.cause is ReportCause.ACCEPTED:
        return FINAL
    if version.cause is ReportCause.MODIFIED:
        return AMENDED
    if version.status is ReportStatus.FINAL and version.person is not None:
        return FINAL
    return AMENDED if _amends(request, version) else PRELIMINARY


def is_replacement(request: InferenceRequest, version: ReportVersion) -> bool:
    """There is an earlier report of the same question: of an earlier revision of the study, or an
    earlier version."""
    return request.amends_revision is not None or version.number > 1


def _amends(request: InferenceRequest, version: ReportVersion) -> bool:
    """Receivers have to see that an earlier report no longer holds: not so where it was kept in
    quarantine, and now is released."""
    if request.amends_revision is not None or version.status is ReportStatus.AMENDED:
        return True
    return version.number > 1 and version.cause in _NEW_ANSWERS


def headlines(
    request: InferenceRequest, result: InferenceResult, context: EncodingContext
) -> list[str]:
    """What a reader has to know before the answer: withdrawn, amended, incomplete, cancelled.
    Sentences without their full stop."""
    version = context.report
    said = [
        withdrawal_statement(version),
        amendment_statement(request),
        _new_version(request, version),
    ]
    said += [incomplete_statement(request)]
    reasons = "; ".join(reason.rstrip(".") for reason in result.reasons)
    if result.outcome is not Outcome.ASSESSED:
        said.append(f"{_OUTCOMES[result.outcome]}: {reasons}")
    return [sentence for sentence in said if sentence]


_OUTCOMES = {
    Outcome.NOT_ASSESSABLE: "NOT ASSESSABLE",
    Outcome.UNSUITABLE: "NOT ANALYSED, outside the model's intended use",
    Outcome.FAILED: "PROCESSING FAILED, nothing was assessed; this is not a negative finding",
}


def _new_version(request: InferenceRequest, version: ReportVersion) -> str:
    """Which version it is, where no revision of the study tells already."""
    if version.number == 1 or version.is_withdrawn:
        return ""
    if version.cause is ReportCause.PATIENT_CHANGED:
        return f"AMENDED: version {version.number} of this report; the patient's data changed"
    if version.cause is ReportCause.MODEL and request.amends_revision is None:
        return f"AMENDED: version {version.number} of this report replaces the earlier one"
    if version.cause is ReportCause.MODIFIED and version.reason:
        return f"CHANGED: {version.reason.rstrip('.')}"
    return ""
