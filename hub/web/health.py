"""Is the process alive, and can it do its work: for orchestrators and load balancers."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel

from hub.domain.access import Principal, Scope
from hub.errors import TransientError
from hub.store import workers
from hub.store.database import schema_version
from hub.supervisor.processes import process_is_alive
from hub.web.context import Context, WebContext
from hub.web.door import principal_if_any

router = APIRouter(prefix="/health", tags=["health"])

_SILENT_AFTER_HEARTBEATS = 5
_ROLES = ("receiver", "indexer", "worker")
_DETAILS_FOR = frozenset({Scope.OPERATOR, Scope.AUDITOR})


class Check(BaseModel):
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


class HealthState(BaseModel):
    """``ready`` is what load balancers act on: the database can be read and has this version's
    schema. Roles that are not running make it ``degraded``: what arrived waits for them."""

    status: Literal["ready", "degraded", "not-ready"]


class HealthReport(HealthState):
    """For those who run the hub: why."""

    version: str
    checks: list[Check]


@router.get("/live")
def live() -> dict[str, str]:
    """The process answers; looks at nothing else."""
    return {"status": "live"}


@router.get("/ready", responses={503: {"description": "Not ready"}})
def ready(
    context: Context,
    response: Response,
    principal: Annotated[Principal | None, Depends(principal_if_any)],
) -> HealthReport | HealthState:
    """The database and the roles; the details with a key of an operator or auditor only."""
    try:
        checks = [_schema(context)]
        if checks[0].ok:
            checks += [_role(context, role) for role in _ROLES]
    except TransientError as error:
        checks = [Check(name="database", ok=False, detail=str(error))]
    usable = checks[0].ok
    if not usable:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    all_well = all(check.ok for check in checks)
    status: Literal["ready", "degraded", "not-ready"] = (
        "ready" if all_well else "degraded" if usable else "not-ready"
    )
    if principal is None or principal.scope not in _DETAILS_FOR:
        return HealthState(status=status)
    return HealthReport(status=status, version=context.version, checks=checks)


def _schema(context: WebContext) -> Check:
    found, needed = schema_version(context.database)
    if found == needed:
        return Check(name="database", ok=True, detail=f"schema {found}")
    detail = f"schema {found or 'missing'}, this version needs {needed}"
    return Check(name="database", ok=False, detail=detail)


def _role(context: WebContext, role: str) -> Check:
    """Processes of a role that have said lately that they are alive, without those of this host
    that have died since."""
    with context.database.read() as connection:
        present = workers.present(connection, role)
    silent = timedelta(seconds=context.heartbeat_seconds * _SILENT_AFTER_HEARTBEATS)
    since = context.clock.now() - silent
    alive = sum(
        heartbeat >= since and process_is_alive(process) is not False
        for process, heartbeat in present
    )
    return Check(name=role, ok=alive > 0, detail=f"{alive} running")
