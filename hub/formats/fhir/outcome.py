"""Errors in FHIR's own terms: OperationOutcome (R4 operationoutcome.html) and its HTTP status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from hub.errors import CaidxError, RejectedError, TransientError

Json = dict[str, Any]

RETRY_AFTER_SECONDS = 5
_MOST_ISSUES = 50


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong, or worth to be told."""

    code: str
    """R4 issue-type: ``structure``, ``value``, ``required``, ``business-rule``, ``informational``
    ..."""
    text: str
    """For people; never a value that the sender sent."""
    expression: str = ""
    """FHIRPath of the element: ``Bundle.entry[3].resource.status``."""
    severity: str = "error"
    """R4 issue-severity: ``fatal``, ``error``, ``warning``, ``information``."""


class Refused(RejectedError):  # noqa: N818 - what happened to the message
    """A message that is not taken, with the HTTP status that says so (R4 http.html)."""

    def __init__(
        self, status: int, *issues: Issue, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__("; ".join(issue.text for issue in issues))
        self.status = status
        self.issues = issues
        self.headers = dict(headers or {})


def unprocessable(text: str, expression: str = "", code: str = "business-rule") -> Refused:
    """422: well-formed FHIR that breaks a rule of the hub's."""
    return Refused(HTTPStatus.UNPROCESSABLE_ENTITY, Issue(code, text, expression))


def malformed(text: str, expression: str = "", code: str = "structure") -> Refused:
    """400: no FHIR R4."""
    return Refused(HTTPStatus.BAD_REQUEST, Issue(code, text, expression))


def refusal_of(error: CaidxError) -> Refused:
    """What an error of the hub's means for the sender."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, TransientError):
        seconds = str(int(error.retry_after or RETRY_AFTER_SECONDS))
        issue = Issue("transient", str(error))
        status = HTTPStatus.SERVICE_UNAVAILABLE
        return Refused(status, issue, headers={"Retry-After": seconds})
    if isinstance(error, RejectedError):
        return unprocessable(str(error))
    issue = Issue("exception", "a fault of the hub; its log says more", severity="fatal")
    return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, issue)


def operation_outcome(issues: Iterable[Issue]) -> Json:
    """The resource; of very many issues the first ones."""
    told = list(issues)
    shown = [_issue(issue) for issue in told[:_MOST_ISSUES]]
    if len(told) > _MOST_ISSUES:
        more = Issue("too-long", f"and {len(told) - _MOST_ISSUES} more", severity="information")
        shown.append(_issue(more))
    return {"resourceType": "OperationOutcome", "issue": shown}


def information(text: str) -> Json:
    """An OperationOutcome that only tells."""
    return operation_outcome([Issue("informational", text, severity="information")])


def _issue(issue: Issue) -> Json:
    told: Json = {
        "severity": issue.severity,
        "code": issue.code,
        "details": {"text": issue.text},
        "diagnostics": issue.text,
    }
    return told | ({"expression": [issue.expression]} if issue.expression else {})
