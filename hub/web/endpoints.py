"""The sources that are part of the HTTP server, such as DICOMweb, and what they need to receive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hub.bootstrap.desk import Desk
from hub.bootstrap.hub import Hub
from hub.bootstrap.intake import build_intake
from hub.errors import ConfigError, ConfigProblem
from hub.ports import HttpEndpoint, Intake, Jobs, Knowledge, SourceContext
from hub.store.holdings import StoredHoldings
from hub.store.orders import StoredOrders
from hub.store.report_bundles import StoredReports
from hub.supervisor.faults import Loop
from hub.supervisor.processes import this_process


def endpoints_of(
    hub: Hub, intake: Intake, knowledge: Knowledge, jobs: Callable[[], Jobs]
) -> tuple[HttpEndpoint, ...]:
    """One for every configured source whose connector has endpoints. ``jobs``: what puts jobs into
    the transactions of orders.

    Raises:
        ConfigError: two have the same path.
    """
    holdings = StoredHoldings(hub.database, hub.objects)
    endpoints: dict[str, HttpEndpoint] = {}
    for entry in hub.settings.sources:
        build = hub.components.connectors[entry.kind].build_endpoint
        if build is None:
            continue
        context = SourceContext(
            entry.name,
            intake,
            hub.clock,
            knowledge,
            orders=StoredOrders(
                database=hub.database,
                jobs=jobs,
                journal=hub.journal(f"source:{entry.name}"),
                routes={route.name: route.route_mode for route in hub.settings.routes},
            ),
            reports=StoredReports(hub.database, hub.documents),
            issuers={
                system: issuer for issuer, system in hub.settings.site.systems_by_issuer.items()
            },
            private_networks=hub.settings.outbound.private_networks,
        )
        endpoint = build(entry.options, context, holdings)
        if endpoint.path in endpoints:
            text = f"{endpoint.path} is another source's path too"
            raise ConfigError((ConfigProblem(hub.settings.file, 0, entry.name, text),))
        endpoints[endpoint.path] = endpoint
    return tuple(endpoints.values())


@contextmanager
def running_endpoints(hub: Hub, jobs: Callable[[], Jobs]) -> Iterator[tuple[HttpEndpoint, ...]]:
    """The endpoints over an intake of this process's own, as long as they are served. Where no
    source is configured that has any, there is no intake either.

    Raises:
        ConfigError: a source can never be served as configured.
    """
    connectors = hub.components.connectors
    if not any(connectors[entry.kind].build_endpoint for entry in hub.settings.sources):
        yield ()
        return
    process = this_process("web")
    desk = Desk(hub.settings.database_url, hub.objects, process, "web", hub.clock)
    pool, intake = build_intake(hub.settings, process, hub.clock, desk)
    endpoints = endpoints_of(hub, intake, desk, jobs)
    interval = hub.settings.workers.heartbeat_seconds
    turns = Loop("desk", lambda: desk.turn({}), interval, at_once=True)
    pool.start()
    turns.start()
    try:
        yield endpoints
    finally:
        turns.stop()
        pool.stop()
        desk.close({})
