"""The composition root: settings in, running parts out. The only place that builds things."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import structlog

from hub.config import BUILTIN, ModelSettings, Settings, model_id_of
from hub.domain.delivery import DocumentKind, RetryPolicy
from hub.domain.routing import Route
from hub.durable import Engine, JobQueue, Queue, migrate_engine
from hub.errors import CaidxError, ConfigError, ConfigProblem, TransientError
from hub.formats import dicom_seg, dicom_sr, fhir_report, report_pdf
from hub.formats.encoding import BusinessIdentifier, Encoder, EncodingContext
from hub.formats.rehearsal import rehearse
from hub.formats.route_expression import compile_expression
from hub.pipeline import STUDY_JOB, STUDY_QUEUE, Pipeline, delivery_queue, inference_queue
from hub.ports import (
    AdapterContext,
    Clock,
    DestinationContext,
    Health,
    ModelAdapter,
    ModelPackage,
    SourceContext,
)
from hub.registry import Components, Registry, RunningDestination, RunningModel
from hub.store.database import Database, migrate, open_database
from hub.store.delivery_ledger import DELIVERY_JOB, DeliveryLedger
from hub.store.documents import DocumentStore
from hub.store.intake import QuietTimes, StudyIntake
from hub.store.journal import Journal
from hub.store.objects import SegmentStore
from hub.store.packages import read_package
from hub.store.request_ledger import REQUEST_JOB, RequestLedger
from hub.store.workers import ProcessIdentity
from hub.supervisor import (
    Loop,
    RoleProcesses,
    SupervisedSource,
    Takeover,
    isolated,
    this_process,
)

ROLES = ("receiver", "worker", "web")
ENCODERS: Mapping[DocumentKind, Encoder] = {
    DocumentKind.PDF: report_pdf.encode,
    DocumentKind.SEG: dicom_seg.encode,
    DocumentKind.SR: dicom_sr.encode,
    DocumentKind.ENCAPSULATED_PDF: report_pdf.encode_dicom,
    DocumentKind.FHIR: fhir_report.encode,
}
"""In the order in which documents refer to each other."""
_COMPLETENESS_SECONDS = 0.02
_SILENT_HEARTBEATS = 5
_STOP_SECONDS = 10
_LOAD_ATTEMPTS = 3

log = structlog.get_logger(__name__)


class SystemClock:
    """The host's clock (hub.ports.Clock)."""

    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Hub:
    """What every role and command shares: the settings and the store."""

    settings: Settings
    components: Components
    database: Database
    objects: SegmentStore
    documents: DocumentStore
    clock: Clock = field(default_factory=SystemClock)

    def migrate(self) -> None:
        """Bring the hub's and the engine's tables to this version."""
        migrate(self.database)
        migrate_engine(self.database.url)

    def journal(self, actor: str) -> Journal:
        return Journal(self.clock, actor)

    def close(self) -> None:
        self.database.close()


def open_hub(settings: Settings, components: Components) -> Hub:
    """Open the store; nothing runs yet, and no schema is touched.

    Raises:
        TransientError: the database cannot be reached.
    """
    settings.data.mkdir(parents=True, exist_ok=True)
    return Hub(
        settings=settings,
        components=components,
        database=open_database(settings.database_url),
        objects=SegmentStore(settings.data / "objects"),
        documents=DocumentStore(settings.data / "documents"),
    )


# --- parts -------------------------------------------------------------------------------


def routes_of(settings: Settings) -> tuple[Route, ...]:
    """The rules, compiled.

    Raises:
        ConfigError: an expression does not compile.
    """
    return tuple(
        Route(
            name=route.name,
            when=compile_expression(route.when, names=("study",)),
            series=compile_expression(route.series, names=("study", "series")),
            model=route.model,
            priority=route.rank,
            deliver_to=route.deliver_to or (),
            mode=route.route_mode,
        )
        for route in settings.routes
    )


def package_of(model: ModelSettings, components: Components) -> ModelPackage:
    """Read a configured model's package.

    Raises:
        ConfigError: it is not there, or not what its manifest says.
    """
    name = model.package
    if not name.startswith(BUILTIN):
        return read_package(Path(name))
    folder = components.models.get(name.removeprefix(BUILTIN))
    if folder is None:
        known = ", ".join(sorted(components.models)) or "none"
        problem = ConfigProblem(name, 0, "package", f"no installed package ships it ({known})")
        raise ConfigError((problem,))
    return read_package(folder)


def build_adapters(hub: Hub) -> dict[str, ModelAdapter]:
    """One adapter per kind that a model uses."""
    return {
        kind: hub.components.adapters[kind].build(
            options, AdapterContext(name=kind, objects=hub.objects, clock=hub.clock)
        )
        for kind, options in hub.settings.adapters.items()
    }


def build_destinations(hub: Hub) -> dict[str, RunningDestination]:
    """Every configured destination; none is contacted."""
    destinations = {}
    for entry in hub.settings.destinations:
        build = hub.components.connectors[entry.kind].build_destination
        if build is None:  # settings are validated against the connectors: a stranger's mistake
            problem = ConfigProblem(
                hub.settings.file, 0, entry.name, f"{entry.kind} is no destination"
            )
            raise ConfigError((problem,))
        context = DestinationContext(name=entry.name, clock=hub.clock)
        destinations[entry.name] = RunningDestination(
            destination=build(entry.options, context),
            documents=tuple(entry.documents),
            retry=entry.delivery.policy,
            concurrency=entry.concurrency,
        )
    return destinations


def load_registry(hub: Hub, adapters: Mapping[str, ModelAdapter]) -> Registry:
    """Load every model; one that cannot run is kept with its reason, and the others go on."""
    models: dict[str, RunningModel] = {}
    broken: dict[str, str] = {}
    for entry in hub.settings.models:
        model_id = model_id_of(entry.package) or entry.package
        try:
            package = package_of(entry, hub.components)
            model_id = package.card.id
            _must_run(entry, package, hub.components)
            _load(adapters[entry.adapter], package)
        except CaidxError as error:
            broken[model_id] = str(error)
            log.error("model.broken", model_id=model_id, reason=str(error))  # noqa: TRY400
        else:
            models[model_id] = RunningModel(package, adapters[entry.adapter])
    return Registry(models=models, broken_models=broken, destinations=build_destinations(hub))


def _must_run(entry: ModelSettings, package: ModelPackage, components: Components) -> None:
    wanted, offered = package.card.runtime.kind, components.adapters[entry.adapter].runtime_kind
    if wanted != offered:
        message = f"adapter {entry.adapter} runs {offered} models, this one is {wanted}"
        raise ConfigError((ConfigProblem(entry.package, 0, "runtime.kind", message),))


def _load(adapter: ModelAdapter, package: ModelPackage) -> None:
    """Load a model; what may be a passing fault of a busy machine is tried again."""
    for _ in range(_LOAD_ATTEMPTS - 1):
        try:
            adapter.load(package)
        except TransientError as error:
            log.warning("model.not-loaded", model_id=package.card.id, reason=str(error))
        else:
            return
    adapter.load(package)


def encoding_context(hub: Hub) -> Callable[[], EncodingContext]:
    """What the encoders know of the institution; asked for at the moment of encoding."""
    site, software = hub.settings.site, version("caidx-hub")

    def now() -> EncodingContext:
        return EncodingContext(
            made_at=hub.clock.now(),
            institution_name=site.institution_name,
            organization_identifiers=tuple(
                BusinessIdentifier(i.system, i.value) for i in site.organization_identifiers
            ),
            software_version=software,
            timezone=site.zone,
            result_system=site.result_system,
            identifier_systems=site.systems_by_issuer,
        )

    return now


def build_pipeline(hub: Hub, registry: Registry, jobs: JobQueue, actor: str) -> Pipeline:
    """The steps of the path of a study, wired to this process's parts."""
    journal = hub.journal(actor)
    retry = RetryPolicy(first_delay=1.0, max_delay=60.0, attempts=3)
    return Pipeline(
        database=hub.database,
        documents=hub.documents,
        jobs=jobs,
        journal=journal,
        requests=RequestLedger(hub.database, jobs, journal, retry),
        deliveries=DeliveryLedger(hub.database, jobs, journal),
        registry=registry,
        routes=routes_of(hub.settings),
        encoders=ENCODERS,
        context=encoding_context(hub),
    )


# --- roles -------------------------------------------------------------------------------


@dataclass(slots=True)
class Receiver:
    """The role that takes studies in."""

    hub: Hub
    takeover: Takeover
    intake: StudyIntake
    sources: tuple[SupervisedSource, ...]
    _loops: tuple[Loop, ...] = ()

    def start(self) -> None:
        """Adopt what a dead receiver left behind, then listen."""
        self.takeover.register("receiver")
        self.takeover.take_over_transfers(self.intake)
        for source in self.sources:
            source.start()
        interval = self.hub.settings.workers.heartbeat_seconds
        self._loops = (
            Loop("heartbeat", lambda: self.takeover.beat(self.health()), interval),
            Loop("ends", self.intake.record_ends, interval),
            Loop("takeover", lambda: self.takeover.take_over_transfers(self.intake), interval),
        )
        for loop in self._loops:
            loop.start()

    def health(self) -> dict[str, Health]:
        return {f"source:{source.name}": source.health() for source in self.sources}

    def stop(self) -> None:
        for source in self.sources:
            source.stop()
        for loop in self._loops:
            loop.stop()
        self.takeover.leave()


def build_receiver(hub: Hub) -> Receiver:
    """Every configured source, over one intake."""
    process = this_process("receiver")
    quiet_times = {
        entry.name: QuietTimes(
            quiet=timedelta(seconds=entry.completeness.quiet_seconds),
            straggler=timedelta(seconds=entry.completeness.straggler_seconds),
        )
        for entry in hub.settings.sources
    }
    intake = StudyIntake(hub.database, hub.objects, hub.clock, process.executor_id, quiet_times)
    sources = []
    for entry in hub.settings.sources:
        build = hub.components.connectors[entry.kind].build_source
        if build is None:  # settings are validated against the connectors: a stranger's mistake
            problem = ConfigProblem(hub.settings.file, 0, entry.name, f"{entry.kind} is no source")
            raise ConfigError((problem,))
        source = build(entry.options, SourceContext(entry.name, intake, hub.clock))
        sources.append(SupervisedSource(entry.name, source, hub.clock))
    return Receiver(hub, _takeover(hub, process), intake, tuple(sources))


@dataclass(slots=True)
class Worker:
    """The role that does the work: completes, routes, infers, encodes, delivers."""

    hub: Hub
    takeover: Takeover
    engine: Engine
    jobs: JobQueue
    adapters: Mapping[str, ModelAdapter]
    pipeline: Pipeline
    _loops: tuple[Loop, ...] = ()
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin to run jobs, and to look after those of dead workers."""
        self.takeover.register("worker")
        pipeline, interval = self.pipeline, self.hub.settings.workers.heartbeat_seconds
        self._rehearse()
        self.engine.start(
            {
                STUDY_JOB: self._isolated(pipeline.run_study, pipeline.study_failed),
                REQUEST_JOB: self._isolated(pipeline.run_request, pipeline.request_failed),
                DELIVERY_JOB: self._isolated(pipeline.run_delivery, pipeline.delivery_failed),
            },
            self._queues(),
        )
        self._loops = (
            Loop("completeness", self._complete, _COMPLETENESS_SECONDS),
            Loop("heartbeat", lambda: self.takeover.beat(self.health()), interval),
            Loop("takeover", lambda: self.takeover.take_over_jobs(self.engine), interval),
        )
        for loop in self._loops:
            loop.start()

    def health(self) -> dict[str, Health]:
        return {f"adapter:{kind}": adapter.health() for kind, adapter in self.adapters.items()}

    def stop(self) -> None:
        """Let running jobs end for a while.

        The worker stays on the list of those who hold work: whoever starts next takes over what
        it could not finish.
        """
        self._stopping.set()
        for loop in self._loops:
            loop.stop()
        self.engine.stop(_STOP_SECONDS)
        for adapter in self.adapters.values():
            adapter.close()
        for running in self.pipeline.registry.destinations.values():
            running.destination.close()
        self.jobs.close()

    def _complete(self) -> None:
        self.pipeline.complete_due_studies()

    def _rehearse(self) -> None:
        """Without it the first report after a start takes half a second longer."""
        pipeline = self.pipeline
        for running in islice(pipeline.registry.models.values(), 1):
            key, card = running.package.key, running.package.card
            try:
                rehearse(pipeline.encoders, key, card, pipeline.context())
            except CaidxError as error:
                log.warning("worker.rehearsal-failed", model_id=card.id, reason=str(error))

    def _isolated(
        self, work: Callable[[str], None], on_fault: Callable[[str, str], None]
    ) -> Callable[[str], None]:
        return isolated(work, on_fault, self._stopping)

    def _queues(self) -> tuple[Queue, ...]:
        registry = self.pipeline.registry
        at_once = max(2, os.cpu_count() or 1)
        inference = {m.package.card.runtime.concurrency for m in registry.models.values()}
        delivery = {d.concurrency for d in registry.destinations.values()}
        return (
            Queue(STUDY_QUEUE, worker_concurrency=at_once),
            *(Queue(inference_queue(n), n, worker_concurrency=at_once) for n in sorted(inference)),
            *(Queue(delivery_queue(n), n) for n in sorted(delivery)),
        )


def build_worker(hub: Hub) -> Worker:
    """The engine, the models and the destinations of one worker process."""
    process = this_process("worker")
    adapters = build_adapters(hub)
    engine = Engine(hub.database.url, process.executor_id)
    jobs = JobQueue(hub.database.url, engine.look_now)
    registry = load_registry(hub, adapters)
    return Worker(
        hub=hub,
        takeover=_takeover(hub, process),
        engine=engine,
        jobs=jobs,
        adapters=adapters,
        pipeline=build_pipeline(hub, registry, jobs, f"worker:{process.executor_id}"),
    )


def role_processes(hub: Hub, config_file: str | None) -> RoleProcesses:
    """The children of ``caidx serve``: a receiver, the workers, and the web role."""
    program = [sys.executable, "-m", "hub"]
    options = ["--config", config_file] if config_file else []
    roles = ["receiver", *(f"worker-{n + 1}" for n in range(hub.settings.workers.count)), "web"]
    return RoleProcesses(
        {role: [*program, *options, "serve", "--role", role.partition("-")[0]] for role in roles}
    )


def _takeover(hub: Hub, process: ProcessIdentity) -> Takeover:
    silence = timedelta(seconds=hub.settings.workers.heartbeat_seconds * _SILENT_HEARTBEATS)
    return Takeover(hub.database, process, hub.clock, silence)
