"""The one word that goes out instead of further alerts, when a route finds too much that is
critical (hub/critical_alerts.py)."""

from __future__ import annotations

from datetime import datetime

import orjson

from hub.domain.delivery import Document, DocumentKind
from hub.domain.identity import StudyIdentity, derived_uuid


def escalation(
    *,
    request_id: str,
    identity: StudyIdentity,
    route: str,
    model: str,
    in_last_hour: int,
    alerts_per_hour: int,
    at: datetime,
) -> Document:
    """A notice (JSON) of the event ``escalation``; it names the study that it was raised for, and
    no patient."""
    content = {
        "event": "escalation",
        "route": route,
        "model": model,
        "critical_in_last_hour": in_last_hour,
        "alerts_per_hour": alerts_per_hour,
        "at": at.isoformat(),
        "request_id": request_id,
        "study_instance_uid": identity.study_instance_uid,
        "message": (
            f"Route {route}: {in_last_hour} reports with critical findings within an hour. Further"
            " ones raise no alert of their own; look at them in the archive, and check the model."
        ),
    }
    return Document(
        document_id=str(derived_uuid("escalation", request_id, at.isoformat())),
        kind=DocumentKind.NOTICE,
        request_id=request_id,
        identity=identity,
        content=orjson.dumps(content),
    )
