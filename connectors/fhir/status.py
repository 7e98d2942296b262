"""What a FHIR server's answer means for the delivery (R4 http, "Status Codes").

=====================================  ==================================================
answer                                 meaning
=====================================  ==================================================
2xx                                    taken
408, 425, 429, 5xx                     `TransientError`, after `Retry-After` where given
409                                    `TransientError`: another change was faster
412, more than one match               `RejectedError`: the server holds duplicates, which a
                                       person has to merge
412 otherwise                          `TransientError`
any other                              `RejectedError`: the same request cannot succeed
=====================================  ==================================================

The free text of an OperationOutcome often repeats what was sent. Only codes and element
paths are taken from it, so that messages hold no patient data.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from hub.errors import RejectedError, TransientError
from hub.formats.http_answers import is_passing

CONFLICTS = frozenset({HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED})

_CODE = re.compile(r"[a-z][a-z-]{1,30}")
_PATH = re.compile(r"[A-Za-z][A-Za-z0-9_.\[\]]{0,120}")
_SHOWN_ISSUES = 5


def error_of(
    status: int, outcome: object, retry_after: float | None = None
) -> TransientError | RejectedError:
    """The error that an answer other than 2xx stands for."""
    message = f"HTTP {status}{_described(outcome)}"
    if is_passing(status):
        return TransientError(message, retry_after=retry_after)
    if status == HTTPStatus.CONFLICT:
        return TransientError(message, retry_after=retry_after)
    if status == HTTPStatus.PRECONDITION_FAILED:
        if matches_several(outcome):
            return RejectedError(f"{message}: the server holds duplicates of a resource")
        return TransientError(message, retry_after=retry_after)
    return RejectedError(message)


def matches_several(outcome: object) -> bool:
    """The server found more than one resource where the condition may match one."""
    return any(
        issue.get("code") == "multiple-matches" or "multiple" in _text(issue).lower()
        for issue in _issues(outcome)
    )


def _described(outcome: object) -> str:
    shown = []
    for issue in _issues(outcome)[:_SHOWN_ISSUES]:
        code = str(issue.get("code", ""))
        places = [str(place) for place in _list(issue.get("expression"))]
        safe = [place for place in places if _PATH.fullmatch(place)]
        shown.append(" ".join([code if _CODE.fullmatch(code) else "unknown", *safe[:1]]))
    return f" ({'; '.join(shown)})" if shown else ""


def _issues(outcome: object) -> list[dict[str, Any]]:
    if not isinstance(outcome, dict) or outcome.get("resourceType") != "OperationOutcome":
        return []
    return [issue for issue in _list(outcome.get("issue")) if isinstance(issue, dict)]


def _text(issue: dict[str, Any]) -> str:
    details = issue.get("details")
    text = details.get("text", "") if isinstance(details, dict) else ""
    return f"{text} {issue.get('diagnostics', '')}"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
