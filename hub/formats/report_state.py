"""How a report says what it stands for, wherever people read it: the words that all formats share.
What it stands for is decided in `hub.domain.report`."""

from __future__ import annotations

from hub.domain.delivery import DocumentKind
from hub.domain.inference import InferenceResult, Outcome
from hub.domain.report import Person, ReportCause, ReportVersion
from hub.formats.encoding import AI_MARK
from hub.formats.printed.words import person_name

OUTCOME_TITLES = {
    Outcome.NOT_ASSESSABLE: "NOT ASSESSABLE",
    Outcome.UNSUITABLE: "NOT ANALYSED: OUTSIDE THE INTENDED USE",
    Outcome.FAILED: "PROCESSING FAILED",
}
WITHDRAWN_NOTE = "WITHDRAWN: this AI result must not be used"
NO_STATEMENT = "No statement about the patient: this is neither a positive nor a negative result."

_BY = {
    ReportCause.ACCEPTED: "Verified",
    ReportCause.MODIFIED: "Changed and verified",
    ReportCause.REJECTED: "Rejected",
    ReportCause.RETRACTED: "Withdrawn",
    ReportCause.RELEASED: "Released from quarantine",
}
_KIND_NAMES = {
    DocumentKind.SR: "structured report",
    DocumentKind.SR_3D: "structured report",
    DocumentKind.ENCAPSULATED_PDF: "PDF report",
    DocumentKind.KEY_IMAGE: "key images",
}


def standing(version: ReportVersion) -> str:
    """That an AI made it, and who verified it: :data:`AI_MARK` where nobody did."""
    person = version.verifier
    return AI_MARK if person is None else _verified(version, named(person))


def _verified(version: ReportVersion, by: str) -> str:
    changed = "changed and " if version.cause is ReportCause.MODIFIED else ""
    return f"AI result, {changed}verified by {by}"


def standing_title(version: ReportVersion) -> str:
    """What the report is, in the biggest letters on it."""
    if version.is_withdrawn:
        return "Withdrawn: do not use"
    return AI_MARK if version.verifier is None else _verified(version, "a person")


def standing_subtitle(version: ReportVersion) -> str:
    """Who answers for it."""
    if version.is_withdrawn:
        return f"Made by software. {responsible(version)}".rstrip()
    if version.verifier is None:
        return "Made by software. No physician has confirmed it."
    return f"Made by software. {responsible(version)}"


def responsible(version: ReportVersion) -> str:
    """What a person did to the report, and who; empty where nobody did anything."""
    done = _BY.get(version.cause) or ("Verified" if version.verifier is not None else "")
    if not done or version.person is None:
        return ""
    return f"{done} by {named(version.person)}."


def named(person: Person) -> str:
    """A person and whom he works for."""
    name = person_name(person.name)
    return f"{name} ({person.organization})" if person.organization else name


def withdrawal_statement(version: ReportVersion) -> str:
    """That the report must not be used, by whose word and why, without a full stop; empty where it
    may be."""
    if not version.is_withdrawn:
        return ""
    deed = "rejected" if version.cause is ReportCause.REJECTED else "withdrawn"
    by = f" by {named(version.person)}" if version.person is not None else ""
    why = f". Reason: {version.reason.rstrip('.')}" if version.reason else ""
    return f"{WITHDRAWN_NOTE} ({deed}{by}){why}"


def critical_statement(result: InferenceResult) -> str:
    """What a person has to know at once; empty where there is nothing."""
    names = dict.fromkeys(
        ", ".join(
            part.code_meaning for part in (f.code, f.finding_site, f.laterality) if part is not None
        )
        for f in result.findings
        if f.critical
    )
    return f"CRITICAL: {'; '.join(names)}" if names else ""


def version_statement(version: ReportVersion) -> str:
    """Which version of the report it is and what it replaces; empty for the first."""
    if version.number <= 1:
        return ""
    said = f"Version {version.number} of this report; replaces version {version.number - 1}"
    if version.cause is ReportCause.PATIENT_CHANGED:
        return f"{said}, because the identity of the patient changed"
    if version.reason and not version.is_withdrawn:
        return f"{said}. Reason: {version.reason}"
    return said


def predecessor_lines(version: ReportVersion) -> list[str]:
    """The replaced objects by their names, one line for each."""
    return [
        f"Replaces {_KIND_NAMES.get(one.kind, one.kind.value.upper().replace('_', ' '))}:"
        f" {one.sop_instance_uid}"
        for one in version.predecessors
    ]
