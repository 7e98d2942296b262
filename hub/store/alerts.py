"""What a person has to look at."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from hub.domain.identity import derived_uuid
from hub.store.database import insert_new
from hub.store.schema import alerts


def raise_alert(
    connection: sa.Connection,
    *,
    kind: str,
    entity: str,
    message: str,
    at: datetime,
    study_instance_uid: str = "",
) -> bool:
    """Raise it once: the same kind about the same entity with the same message is one alert."""
    return insert_new(
        connection,
        alerts,
        alert_id=str(derived_uuid("alert", kind, entity, message)),
        raised_at=at,
        kind=kind,
        study_instance_uid=study_instance_uid,
        entity=entity,
        message=message,
    )
