"""Does what a message asks for: as a whole (transaction), or each entry on its own (batch)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from connectors.fhir.config import FhirSourceConfig
from connectors.fhir.plans import Plan, Planner
from connectors.fhir.reading import Reader
from hub.domain.observation import Observation
from hub.errors import CaidxError
from hub.formats.fhir.intake import Entry
from hub.formats.fhir.outcome import (
    Issue,
    Refused,
    information,
    malformed,
    operation_outcome,
    refusal_of,
)
from hub.ports import Orders, PlacedOrder, SourceContext, Taken

Json = dict[str, Any]

_MOST_REFUSALS = 20
"""Entries of a transaction whose mistakes are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of an entry."""

    status: int
    resource: Json | None = None
    """As it stands now; None where the hub keeps none."""
    outcome: Json | None = None
    is_read: bool = False
    """The resource is what was asked for."""
    refused: Refused | None = None


class _Made:
    """What was recorded, by identifier: a message may have very many entries."""

    def __init__(self, taken: Taken) -> None:
        self.placed = {one.order.order_id: one for one in reversed(taken.placed)}
        self.new_observations = frozenset(taken.new_observations)


class Acceptance:
    """Takes messages of one source. Thread-safe."""

    def __init__(
        self, config: FhirSourceConfig, context: SourceContext, orders: Orders, reader: Reader
    ) -> None:
        self._config = config
        self._context = context
        self._orders = orders
        self._reader = reader

    # --- all or nothing ------------------------------------------------------------------

    def transaction(self, entries: Sequence[Entry], body: bytes) -> list[Done | None]:
        """Every entry, or none (R4 http.html#transaction); None: it is to be read now.

        Raises:
            Refused: what is wrong with all of them; nothing was done.
        """
        planner = Planner(entries, self._config, self._context, self._orders)
        plans, refusals = [], []
        for entry in entries:
            try:
                plans.append(planner.plan(entry, uuid4().hex))
            except Refused as refused:
                refusals.append(refused)
            if len(refusals) == _MOST_REFUSALS:
                break  # nothing will be done: no more work for it
        if refusals:
            raise _together(refusals)
        made = _Made(self._take(plans, self._name_of(body)))
        return [self._finished(plan, made) for plan in plans]

    def single(self, entry: Entry, body: bytes) -> Done:
        """An interaction of its own."""
        (done,) = self.transaction([entry], body)
        return done or _refused(malformed("a request that only reads is no message"))

    # --- each on its own -----------------------------------------------------------------

    def batch(self, entries: Sequence[Entry], body: bytes) -> list[Done | None]:
        """Each entry for itself (R4 http.html#batch). Values are kept together, so that routes
        that start with values see all of them; None: it is to be read now."""
        planner = Planner(entries, self._config, self._context, self._orders)
        plans: list[Plan | Refused] = []
        for entry in entries:
            try:
                plans.append(planner.plan(entry, uuid4().hex))
            except CaidxError as error:
                plans.append(refusal_of(error))
        values = [one for one in plans if isinstance(one, Plan) and one.observation is not None]
        name = self._name_of(body)
        kept = self._tried(values, name)
        return [
            self._each(plan, kept, name) if isinstance(plan, Plan) else _refused(plan)
            for plan in plans
        ]

    def _each(self, plan: Plan, kept: _Made | Refused, name: str) -> Done | None:
        taken = kept if plan.observation is not None else self._tried([plan], name)
        return _refused(taken) if isinstance(taken, Refused) else self._finished(plan, taken)

    def _tried(self, plans: Sequence[Plan], name: str) -> _Made | Refused:
        try:
            return _Made(self._take(plans, name))
        except CaidxError as error:
            return refusal_of(error)

    # --- doing ---------------------------------------------------------------------------

    def _take(self, plans: Sequence[Plan], name: str) -> Taken:
        """Orders and values in one piece, then what is known beside them. Where the hub dies in
        between there is no answer: the sender sends it again, which does the rest.

        Raises:
            RejectedError: nothing was done.
            TransientError: not now.
        """
        orders = [plan.order for plan in plans if plan.order is not None]
        values = [plan.observation for plan in plans if plan.observation is not None]
        taken = self._orders.take(orders, values, name) if orders or values else Taken()
        for plan in plans:
            for expectation in plan.expectations:
                self._context.knowledge.expect(expectation)
            for change in plan.changes:
                self._context.knowledge.patient_changed(change)
        cancelled = [
            self._orders.cancel(plan.cancels, "taken back by whoever placed it")
            for plan in plans
            if plan.cancels
        ]
        return replace(taken, placed=(*taken.placed, *cancelled))

    def _finished(self, plan: Plan, made: _Made) -> Done | None:
        entry = plan.entry
        if plan.reads:
            return None
        order_id = plan.order.order_id if plan.order is not None else plan.cancels
        if order_id:
            placed = made.placed[order_id]
            resource = self._reader.order_as(entry.resource_type, placed)
            return Done(status=_status(is_new=placed.is_new), resource=resource)
        if plan.observation is not None:
            shown = self._reader.observation_as(plan.observation)
            is_new = plan.observation.observation_id in made.new_observations
            return Done(status=_status(is_new=is_new), resource=shown)
        if plan.existing is not None:
            return Done(status=HTTPStatus.OK, resource=self._shown(entry, plan.existing))
        return Done(status=HTTPStatus.OK, outcome=information(plan.remark))

    def _shown(self, entry: Entry, existing: PlacedOrder | Observation) -> Json:
        if isinstance(existing, Observation):
            return self._reader.observation_as(existing)
        return self._reader.order_as(entry.resource_type, existing)

    def _name_of(self, body: bytes) -> str:
        """The same message sent again has the same name."""
        return hashlib.sha256(self._context.name.encode() + b"\x1f" + body).hexdigest()[:32]


def _status(*, is_new: bool) -> int:
    return HTTPStatus.CREATED if is_new else HTTPStatus.OK


def _refused(refused: Refused) -> Done:
    outcome = operation_outcome(refused.issues)
    return Done(status=refused.status, outcome=outcome, refused=refused)


def _together(refusals: Sequence[Refused]) -> Refused:
    """One answer for all: of the status that all have, or 400."""
    issues: list[Issue] = [issue for one in refusals for issue in one.issues]
    statuses = {one.status for one in refusals}
    status = statuses.pop() if len(statuses) == 1 else HTTPStatus.BAD_REQUEST
    return Refused(status, *issues, headers=refusals[0].headers)
