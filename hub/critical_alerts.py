"""Findings that a person has to know at once: they go first, and never flood.

A report with a critical finding is delivered with priority STAT. Destinations that get nothing
else (``critical_only``: a pager's webhook) are alerted at most ``alerts_per_hour`` times for each
route; then they get one escalation an hour in place of the reports. Everybody else gets every
report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from hub.domain.critical import CriticalRule
from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult, Priority
from hub.domain.model_card import ModelCard
from hub.domain.routing import Route
from hub.formats.escalation import escalation
from hub.report_steps import Made, ReportMaker
from hub.store.critical_alerts import AlertState, CriticalAlert, raise_critical
from hub.store.results import FiledDocument, RequestRow

_ALERTS_PER_HOUR = 10
"""Of a route that was taken out of the configuration."""


def rules_of(routes: Sequence[Route], route: str, card: ModelCard) -> tuple[CriticalRule, ...]:
    """What is critical: as the route says, otherwise as the manifest says."""
    found = next((one for one in routes if one.name == route), None)
    if found is None or found.critical is None:
        return card.output.critical
    return found.critical


@dataclass(frozen=True, slots=True)
class CriticalAlerts:
    """Decides who is alerted, in the transaction that puts the report on its way."""

    maker: ReportMaker
    routes: tuple[Route, ...]

    def send(
        self,
        connection: sa.Connection,
        row: RequestRow,
        request: InferenceRequest,
        result: InferenceResult,
        made: Made,
        *,
        version: int,
    ) -> tuple[Made, Priority]:
        """Who gets these documents, and how soon; an escalation is put on its way at once.

        The transaction has locked the study's lines (`DeliveryLedger.lock`).
        """
        if row.shadow or not any(finding.critical for finding in result.findings):
            return made, row.priority
        now, limit = self.maker.clock.now(), self._limit(row.route)
        alert = raise_critical(
            connection,
            request_id=row.request_id,
            version=version,
            route=row.route,
            limit=limit,
            now=now,
        )
        self.maker.journal.record(
            connection,
            "critical.raised",
            f"request:{row.request_id}",
            row.study.study_instance_uid,
            route=row.route,
            alert=alert.state.value,
            in_last_hour=alert.in_last_hour,
        )
        if alert.is_sent:
            return made, Priority.STAT
        if alert.state is AlertState.ESCALATED:
            self._escalate(connection, row, request, alert, version)
        known = self.maker.registry.destinations
        others = {
            name: documents
            for name, documents in made.by_destination.items()
            if not known[name].critical_only
        }
        return replace(made, by_destination=others), Priority.STAT

    def _limit(self, route: str) -> int:
        found = next((one for one in self.routes if one.name == route), None)
        return _ALERTS_PER_HOUR if found is None else found.alerts_per_hour

    def _escalate(
        self,
        connection: sa.Connection,
        row: RequestRow,
        request: InferenceRequest,
        alert: CriticalAlert,
        version: int,
    ) -> None:
        now, limit = self.maker.clock.now(), self._limit(row.route)
        self.maker.journal.alarm(
            connection,
            "critical.flood",
            f"route:{row.route}",
            row.study.study_instance_uid,
            reason=(
                f"{alert.in_last_hour} reports with critical findings in the hour before"
                f" {now:%Y-%m-%d %H:%M} UTC, more than {limit}: further ones raise no alert"
            ),
        )
        notice = escalation(
            request_id=row.request_id,
            identity=request.study.identity,
            route=row.route,
            model=str(row.model),
            in_last_hour=alert.in_last_hour,
            alerts_per_hour=limit,
            at=now,
        )
        self._send_notice(connection, row, notice, version)

    def _send_notice(
        self, connection: sa.Connection, row: RequestRow, notice: Document, version: int
    ) -> None:
        """To those who get alerts alone and take notices; where there is none, the hub's own
        alert has to do."""
        known = self.maker.registry.destinations
        names = [
            name
            for name in row.deliver_to
            if name in known
            and known[name].critical_only
            and DocumentKind.NOTICE in known[name].documents
        ]
        if not names:
            return
        uid = notice.document_id
        made = Made({uid: notice}, {uid: ""}, dict.fromkeys(names, (notice,)), ())
        sha256 = self.maker.documents.put(notice.content)  # once an hour, so it may hold others up
        filed = [FiledDocument(notice, sha256, version, "")]
        self.maker.send(connection, row, made, filed, Priority.STAT)
