"""What people decide about a report: accept it, modify it, reject it, withdraw it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from hub.domain.coding import Code
from hub.domain.finding import Finding, Presence
from hub.domain.report import Person, ReportCause, ReportStatus

DECISIONS = {
    ReportCause.ACCEPTED: ReportStatus.FINAL,
    ReportCause.MODIFIED: ReportStatus.AMENDED,
    ReportCause.REJECTED: ReportStatus.ENTERED_IN_ERROR,
    ReportCause.RETRACTED: ReportStatus.ENTERED_IN_ERROR,
}
"""What a person may decide, and the status that the report has from then on."""
_NEED_A_REASON = (ReportCause.MODIFIED, ReportCause.REJECTED, ReportCause.RETRACTED)
_LONGEST_TEXT = 1000
_ONE_LINE = f"texts are one line of at most {_LONGEST_TEXT} characters"


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingChange:
    """What a person changes of one finding: its answer, its sentence, or that it is one."""

    tracking_uid: str
    """Which finding."""
    code_value: str = ""
    """Its code too, where several findings share the tracking UID."""
    drop: bool = False
    """It is none."""
    presence: Presence | None = None
    value: float | None = None
    """In the finding's own unit."""
    coded_value: Code | None = None
    statement: str | None = None
    """The sentence for people. An answer that is changed loses the model's sentence."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True)
class Decision:
    """One person's word on a report."""

    cause: ReportCause
    """One of ``DECISIONS``."""
    person: Person
    reason: str = ""
    changes: tuple[FindingChange, ...] = ()

    def __post_init__(self) -> None:
        if self.cause not in DECISIONS:
            raise ValueError(f"nobody decides that a report is {self.cause}")
        if not self.person.name.strip():
            raise ValueError("whoever decides has to be named")
        if bool(self.person.identifier_system) and not self.person.identifier:
            raise ValueError("a system without an identifier names nobody")
        if self.cause in _NEED_A_REASON and not self.reason.strip():
            raise ValueError("a reason is needed")
        if (self.cause is ReportCause.MODIFIED) != bool(self.changes):
            raise ValueError("changes are what `modify` needs, and nothing else takes")
        if not all(_is_one_line(text) for text in (self.reason, *_texts(self.person))):
            raise ValueError(_ONE_LINE)

    @property
    def status(self) -> ReportStatus:
        """What the report is from now on."""
        return DECISIONS[self.cause]


def changed(findings: Sequence[Finding], changes: Sequence[FindingChange]) -> tuple[Finding, ...]:
    """The findings as a person changed them.

    A changed answer has no probability: that was the model's, of another answer.

    Raises:
        ValueError: a change names no finding or several, does not fit to its answer, or nothing
            is left or changed; says so without any value.
    """
    found = list(findings)
    for change in changes:
        index = _index_of(found, change)
        new = _changed(found[index], change)
        if new is None:
            del found[index]
        else:
            found[index] = new
    if not found:
        raise ValueError("no finding is left: reject the report instead")
    if tuple(found) == tuple(findings):
        raise ValueError("nothing is changed: accept the report instead")
    return tuple(found)


def _index_of(findings: Sequence[Finding], change: FindingChange) -> int:
    named = [
        index
        for index, finding in enumerate(findings)
        if finding.tracking_uid == change.tracking_uid
        and change.code_value in ("", finding.code.code_value)
    ]
    if len(named) != 1:
        many = "several findings: name the code_value, too" if named else "no finding"
        raise ValueError(f"tracking_uid {change.tracking_uid} names {many}")
    return named[0]


def _changed(finding: Finding, change: FindingChange) -> Finding | None:
    answers = (change.presence, change.value, change.coded_value)
    given = [answer for answer in answers if answer is not None]
    name = f"finding {change.tracking_uid}"
    if change.drop:
        if given or change.statement is not None:
            raise ValueError(f"{name} is dropped: nothing else of it can be changed")
        return None
    if not given and change.statement is None:
        raise ValueError(f"{name}: the change changes nothing")
    if len(given) > 1 or not _fits(finding, change):
        raise ValueError(f"{name} is answered by {_kind(finding)}, and by nothing else")
    if change.value is not None and not math.isfinite(change.value):
        raise ValueError(f"{name}: the value is no number")
    code = change.coded_value
    if code is not None and not all((code.code_value, code.coding_scheme_designator)):
        raise ValueError(f"{name}: the coded value has no code, or no scheme")
    texts = (change.statement or "", "" if code is None else code.code_meaning)
    if not all(_is_one_line(text) for text in texts):
        raise ValueError(f"{name}: {_ONE_LINE}")
    new = _answered(finding, change) if given else finding
    return new if change.statement is None else replace(new, statement=change.statement)


def _answered(finding: Finding, change: FindingChange) -> Finding:
    new = replace(
        finding,
        presence=finding.presence if change.presence is None else change.presence,
        value=finding.value if change.value is None else change.value,
        coded_value=finding.coded_value if change.coded_value is None else change.coded_value,
    )
    return finding if new == finding else replace(new, probability=None, statement="")


def _fits(finding: Finding, change: FindingChange) -> bool:
    if change.presence is not None:
        return finding.presence is not None
    if change.value is not None:
        return finding.value is not None
    return change.coded_value is None or finding.coded_value is not None


def _kind(finding: Finding) -> str:
    if finding.presence is not None:
        return "a presence"
    return "a value" if finding.value is not None else "a coded value"


def _is_one_line(text: str) -> bool:
    return len(text) <= _LONGEST_TEXT and text.isprintable()


def _texts(person: Person) -> tuple[str, ...]:
    return (person.name, person.identifier, person.identifier_system, person.organization)
