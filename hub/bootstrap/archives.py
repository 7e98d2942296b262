"""The archives that a worker asks, and the way of what they send into the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from hub.bootstrap.hub import Hub
from hub.config import Settings
from hub.domain.audit import AuditOutcome
from hub.domain.process import ProcessIdentity
from hub.errors import ConfigError, ConfigProblem, RejectedError, TransientError
from hub.fetching import AskRule, Fetching
from hub.ports import Archive, ArchiveContext, Intake, Jobs
from hub.prior_steps import PriorSteps
from hub.registry import Registry
from hub.store.reception import IntakeLimits, Rejection, SegmentIntake
from hub.store.request_ledger import RequestLedger
from hub.store.segments.bell import Bell
from hub.store.segments.extents import ExtentPool
from hub.transport.address_guard import AddressGuard

_WADO_RS = "dicomweb"
"""Kind of the connector that fetches what an order's ImagingStudy.endpoint names (R4 endpoint,
connectionType ``dicom-wado-rs``)."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Archives:
    """Every configured archive, over one intake; nothing is contacted before it is asked."""

    by_name: Mapping[str, Archive]
    pool: ExtentPool
    open_endpoint: Callable[[str], Archive] | None = None
    """A DICOMweb service that an order names; None where nobody places orders here."""

    @property
    def are_asked(self) -> bool:
        """Whether anything is ever fetched."""
        return bool(self.by_name) or self.open_endpoint is not None

    def start(self) -> None:
        if self.are_asked:
            self.pool.start()

    def close(self) -> None:
        for archive in self.by_name.values():
            archive.close()
        if self.are_asked:
            self.pool.stop()


def build_archives(hub: Hub, process: ProcessIdentity) -> Archives:
    """The clients of all configured archives. What they are sent by C-GET and WADO-RS comes in
    here, and takes its space as it needs it: nothing stands ready for it."""
    settings = hub.settings
    root, storage = settings.data / "objects", settings.storage
    pool = ExtentPool(root, 0, storage.minimum_free_bytes)
    intake = SegmentIntake(
        pool=pool,
        bell=Bell(root / "bell"),
        clock=hub.clock,
        receiver_id=process.executor_id,
        limits=IntakeLimits(storage.maximum_instance_bytes),
        on_rejected=lambda rejection: _record(hub, rejection),
    )
    archives = {e.name: build_archive(hub, e.name, intake) for e in settings.archives}
    open_endpoint = partial(_build_endpoint, hub, intake) if takes_orders(hub) else None
    return Archives(archives, pool, open_endpoint)


def takes_orders(hub: Hub) -> bool:
    """Whether a source is configured that takes orders."""
    connectors = hub.components.connectors
    return any(connectors[entry.kind].shows_reports for entry in hub.settings.sources)


def _build_endpoint(hub: Hub, intake: Intake, url: str) -> Archive:
    """The client of a DICOMweb service whose URL an order brought: it connects to public addresses,
    and those that the operator names.

    Raises:
        RejectedError: it cannot be called, or must not be.
    """
    connector = hub.components.connectors.get(_WADO_RS)
    if connector is None or connector.build_archive is None or connector.archive_config is None:
        raise RejectedError("no connector is installed that speaks DICOMweb")
    networks = hub.settings.outbound.private_networks
    AddressGuard(networks).check_url(url)
    try:
        config = connector.archive_config(url=url)
    except ValueError:
        raise RejectedError("the URL is not that of a DICOMweb service") from None
    context = ArchiveContext(
        name="of the order", intake=intake, clock=hub.clock, private_networks=networks
    )
    return connector.build_archive(config, context)


def build_archive(hub: Hub, name: str, intake: Intake) -> Archive:
    """One archive's client."""
    entry = next(entry for entry in hub.settings.archives if entry.name == name)
    build = hub.components.connectors[entry.kind].build_archive
    if build is None:  # settings are validated against the connectors: a stranger's mistake
        problem = ConfigProblem(hub.settings.file, 0, name, f"{entry.kind} is no archive")
        raise ConfigError((problem,))
    return build(entry.options, ArchiveContext(name=name, intake=intake, clock=hub.clock))


def ask_rules(settings: Settings) -> dict[str, AskRule]:
    """What is asked about the studies of each source."""
    return {
        source.name: AskRule(
            archive=source.completeness.archive,
            after=timedelta(seconds=source.completeness.ask_after_seconds),
            fetch_missing=source.completeness.fetch_missing,
            fetch_within=timedelta(seconds=source.completeness.fetch_seconds),
        )
        for source in settings.sources
        if source.completeness.archive
    }


def build_fetching(hub: Hub, archives: Archives, jobs: Jobs, actor: str) -> Fetching:
    """Asks archives and has them send."""
    return Fetching(
        database=hub.database,
        jobs=jobs,
        journal=hub.journal(actor),
        archives=archives.by_name,
        urls={
            entry.name: entry.options.url
            for entry in hub.settings.archives
            if hasattr(entry.options, "url")  # those that are asked by DICOMweb
        },
        open_endpoint=archives.open_endpoint,
        rules=ask_rules(hub.settings),
        ae_titles=frozenset(
            entry.options.ae_title
            for entry in hub.settings.archives
            if hasattr(entry.options, "ae_title")  # those that are asked by DICOM
        ),
    )


def build_prior_steps(
    hub: Hub, fetching: Fetching, requests: RequestLedger, registry: Registry
) -> PriorSteps:
    """Finds priors for the models that want them."""
    wanted = hub.settings.priors
    return PriorSteps(
        database=hub.database,
        jobs=fetching.jobs,
        journal=fetching.journal,
        requests=requests,
        registry=registry,
        fetching=fetching,
        archives=tuple(fetching.archives) if wanted.archives is None else wanted.archives,
        within=timedelta(seconds=wanted.time_limit_seconds),
    )


def _record(hub: Hub, rejection: Rejection) -> None:
    """An object that an archive sent was refused."""
    journal = hub.journal(f"archive:{rejection.sender.source}")
    try:
        with hub.database.write() as connection:
            journal.record(
                connection,
                "object.rejected",
                f"association:{rejection.association_id}",
                outcome=AuditOutcome.SERIOUS_FAILURE,
                reason=rejection.reason,
                calling_ae_title=rejection.sender.calling_ae_title,
                length=rejection.length,
                sha256=rejection.sha256,
            )
    except TransientError as error:
        log.warning("object.rejected", source=rejection.sender.source, error=error)
