"""How every step records itself: an audit row, and an alert where a person has to look."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from hub.domain.audit import AuditEvent, AuditOutcome
from hub.ports import Clock
from hub.store import alerts, audit


@dataclass(frozen=True, slots=True)
class Journal:
    """Writes in the caller's transaction, in the name of one actor."""

    clock: Clock
    actor: str
    """``source:dicom``, ``worker:<id>``, ``user:<name>``."""

    def record(
        self,
        connection: sa.Connection,
        action: str,
        entity: str,
        study_instance_uid: str = "",
        *,
        outcome: AuditOutcome = AuditOutcome.SUCCESS,
        **detail: object,
    ) -> None:
        """Append to the audit log. ``detail`` holds JSON values, no names, no birth dates."""
        audit.append(
            connection,
            AuditEvent(
                at=self.clock.now(),
                actor=self.actor,
                action=action,
                entity=entity,
                outcome=outcome,
                detail=detail,
                study_instance_uid=study_instance_uid,
            ),
        )

    def alarm(
        self,
        connection: sa.Connection,
        action: str,
        entity: str,
        study_instance_uid: str = "",
        *,
        reason: str,
        **detail: object,
    ) -> None:
        """Append a failure and raise the alert that goes with it."""
        # The audit log first: of two transactions that raise the same alert the second one waits
        # for the first, which must not wait for it.
        self.record(
            connection,
            action,
            entity,
            study_instance_uid,
            outcome=AuditOutcome.SERIOUS_FAILURE,
            reason=reason,
            **detail,
        )
        alerts.raise_alert(
            connection,
            kind=action,
            entity=entity,
            message=reason,
            at=self.clock.now(),
            study_instance_uid=study_instance_uid,
        )
