"""The worker: completes, routes, infers, encodes, delivers."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from itertools import islice

import structlog

from hub.bootstrap.archives import Archives, build_archives, build_fetching, build_prior_steps
from hub.bootstrap.hub import Hub, package_of
from hub.config import ModelSettings, Settings, model_id_of
from hub.domain.delivery import DocumentKind, RetryPolicy
from hub.domain.routing import Route
from hub.durable import Engine, JobQueue, Queue
from hub.errors import CaidxError, ConfigError, ConfigProblem, TransientError
from hub.fetching import FETCH_JOB, FETCH_QUEUE, FETCHES_AT_ONCE
from hub.formats import dicom_seg, dicom_sr, fhir_report, report_pdf
from hub.formats.encoding import BusinessIdentifier, Encoder, EncodingContext
from hub.formats.rehearsal import rehearse
from hub.formats.route_expression import compile_expression
from hub.pipeline import Pipeline, delivery_queue
from hub.ports import (
    AdapterContext,
    Archive,
    DestinationContext,
    Health,
    ModelAdapter,
    ModelPackage,
)
from hub.prior_steps import PRIORS_JOB, PRIORS_QUEUE
from hub.registry import Components, Registry, RunningDestination, RunningModel
from hub.store.delivery_ledger import DELIVERY_JOB, DeliveryLedger
from hub.store.housekeeper import EngineRecords, Housekeeper
from hub.store.index_mark import index_mark
from hub.store.request_ledger import REQUEST_JOB, RequestLedger
from hub.store.retention import Kept, RetentionPolicy, StudyKeeper
from hub.store.series_progress import SeriesTimes
from hub.study_steps import STUDY_JOB, STUDY_QUEUE, inference_queue
from hub.supervisor.faults import Loop, isolated
from hub.supervisor.processes import this_process
from hub.supervisor.takeover import SignsOfLife, Takeover

ENCODERS: Mapping[DocumentKind, Encoder] = {
    DocumentKind.PDF: report_pdf.encode,
    DocumentKind.SEG: dicom_seg.encode,
    DocumentKind.SR: dicom_sr.encode,
    DocumentKind.ENCAPSULATED_PDF: report_pdf.encode_dicom,
    DocumentKind.FHIR: fhir_report.encode,
}
"""In the order in which documents refer to each other."""
_COMPLETENESS_SECONDS = 0.02
_SERIES_SECONDS = 0.25
_ARCHIVES_SECONDS = 0.2
_PRIORS_AT_ONCE = 4
_STOP_SECONDS = 10
_SILENT_HEARTBEATS = 5
_LOAD_ATTEMPTS = 3

log = structlog.get_logger(__name__)


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
            **route.behaviour,
        )
        for route in settings.routes
    )


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


def build_pipeline(
    hub: Hub,
    registry: Registry,
    jobs: JobQueue,
    actor: str,
    archives: Mapping[str, Archive] | None = None,
) -> Pipeline:
    """The steps of the path of a study, wired to this process's parts."""
    journal = hub.journal(actor)
    retry = RetryPolicy(first_delay=1.0, max_delay=60.0, attempts=3)
    requests = RequestLedger(hub.database, jobs, journal, retry)
    fetching = build_fetching(hub, archives or {}, jobs, actor)
    return Pipeline(
        database=hub.database,
        documents=hub.documents,
        jobs=jobs,
        journal=journal,
        requests=requests,
        deliveries=DeliveryLedger(hub.database, jobs, journal),
        registry=registry,
        routes=routes_of(hub.settings),
        encoders=ENCODERS,
        context=encoding_context(hub),
        series_times=SeriesTimes(
            quiet=timedelta(seconds=hub.settings.completeness.series_quiet_seconds)
        ),
        indexed_until=index_mark(hub.objects.root).get,
        fetching=fetching,
        priors=build_prior_steps(hub, fetching, requests, registry),
    )


def retention_policy(settings: Settings) -> RetentionPolicy:
    """What is deleted without anybody asking."""
    general = settings.retention

    def kept(images_days: float | None, results_days: float | None) -> Kept:
        images = general.images_days if images_days is None else images_days
        results = general.results_days if results_days is None else results_days
        return Kept(timedelta(days=images), timedelta(days=results))

    return RetentionPolicy(
        general=kept(None, None),
        by_route={
            route.name: kept(route.retention.images_days, route.retention.results_days)
            for route in settings.routes
        },
        minimum_free_bytes=int(general.minimum_free_gib * (1 << 30)),
        youngest=timedelta(hours=general.youngest_hours),
    )


def build_housekeeper(hub: Hub, engine: Engine, holder: str) -> Housekeeper:
    """Deletes what has had its time, in the name of one worker."""
    return Housekeeper(
        keeper=StudyKeeper(hub.database, hub.documents, hub.journal(f"worker:{holder}")),
        policy=retention_policy(hub.settings),
        holder=holder,
        free_bytes=lambda: shutil.disk_usage(hub.settings.data).free,
        engine=EngineRecords(
            forget_finished=engine.forget_finished,
            holders=engine.holders,
            kept=timedelta(days=hub.settings.retention.jobs_days),
        ),
    )


@dataclass(slots=True)
class Worker:
    """The role that does the work: completes, routes, infers, encodes, delivers."""

    hub: Hub
    life: SignsOfLife
    takeover: Takeover
    engine: Engine
    jobs: JobQueue
    adapters: Mapping[str, ModelAdapter]
    pipeline: Pipeline
    housekeeper: Housekeeper
    archives: Archives
    _loops: tuple[Loop, ...] = ()
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin to run jobs, and to look after those of dead workers."""
        self.life.register("worker")
        pipeline, interval = self.pipeline, self.hub.settings.workers.heartbeat_seconds
        self._rehearse()
        self.archives.start()
        self.engine.start(
            {
                **self._fetching_jobs(),
                STUDY_JOB: self._isolated(pipeline.run_study, pipeline.study_failed),
                REQUEST_JOB: self._isolated(pipeline.run_request, pipeline.request_failed),
                DELIVERY_JOB: self._isolated(pipeline.run_delivery, pipeline.delivery_failed),
            },
            self._queues(),
        )
        self._loops = (
            Loop("completeness", self._complete, _COMPLETENESS_SECONDS),
            Loop("heartbeat", lambda: self.life.beat(self.health()), interval),
            Loop("takeover", lambda: self.takeover.take_over_jobs(self.engine), interval),
            Loop("retention", self.housekeeper.turn, self.hub.settings.retention.every_seconds),
        )
        if pipeline.fetching is not None and pipeline.fetching.rules:
            self._loops += (Loop("archives", self._ask_archives, _ARCHIVES_SECONDS),)
        if pipeline.starts_with_series:
            self._loops += (Loop("series", self._start_series, _SERIES_SECONDS),)
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
        self.archives.close()
        self.jobs.close()

    def _complete(self) -> None:
        self.pipeline.complete_due_studies()

    def _start_series(self) -> None:
        self.pipeline.start_complete_series()

    def _ask_archives(self) -> None:
        if self.pipeline.fetching is not None:
            self.pipeline.fetching.ask_archives()

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

    def _fetching_jobs(self) -> dict[str, Callable[[str], None]]:
        fetching, priors = self.pipeline.fetching, self.pipeline.priors
        if fetching is None or priors is None:
            return {}
        return {
            FETCH_JOB: self._isolated(fetching.run_fetch, fetching.fetch_failed),
            PRIORS_JOB: self._isolated(priors.run_priors, priors.priors_failed),
        }

    def _queues(self) -> tuple[Queue, ...]:
        registry = self.pipeline.registry
        at_once = max(2, os.cpu_count() or 1)
        inference = {m.package.card.runtime.concurrency for m in registry.models.values()}
        delivery = {d.concurrency for d in registry.destinations.values()}
        return (
            Queue(STUDY_QUEUE, worker_concurrency=at_once),
            *(Queue(inference_queue(n), n, worker_concurrency=at_once) for n in sorted(inference)),
            *(Queue(delivery_queue(n), n) for n in sorted(delivery)),
            *self._fetching_queues(),
        )

    def _fetching_queues(self) -> tuple[Queue, ...]:
        """Each queue costs its own polling: only where there is something to fetch, or a model
        that wants priors."""
        models = self.pipeline.registry.models.values()
        wants_priors = any(m.package.card.input.priors is not None for m in models)
        fetches = (Queue(FETCH_QUEUE, FETCHES_AT_ONCE),) if self.archives.by_name else ()
        priors = (Queue(PRIORS_QUEUE, worker_concurrency=_PRIORS_AT_ONCE),) if wants_priors else ()
        return (*fetches, *priors)


def build_worker(hub: Hub) -> Worker:
    """The engine, the models and the destinations of one worker process."""
    process = this_process("worker")
    silence = timedelta(seconds=hub.settings.workers.heartbeat_seconds * _SILENT_HEARTBEATS)
    adapters = build_adapters(hub)
    engine = Engine(hub.database.url, process.executor_id)
    jobs = JobQueue(hub.database.url, engine.look_now)
    registry = load_registry(hub, adapters)
    archives = build_archives(hub, process)
    actor = f"worker:{process.executor_id}"
    return Worker(
        hub=hub,
        life=SignsOfLife(hub.database, process, hub.clock),
        takeover=Takeover(hub.database, process, hub.clock, silence),
        engine=engine,
        jobs=jobs,
        adapters=adapters,
        pipeline=build_pipeline(hub, registry, jobs, actor, archives.by_name),
        archives=archives,
        housekeeper=build_housekeeper(hub, engine, process.executor_id),
    )
