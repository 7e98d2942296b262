"""The worker: completes, routes, infers, encodes, delivers."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice

import structlog

from hub.bootstrap.archives import (
    Archives,
    build_archives,
    build_fetching,
    build_prior_steps,
    takes_orders,
)
from hub.bootstrap.encoding import ENCODERS, encoding_context
from hub.bootstrap.hub import Hub
from hub.bootstrap.models import LiveModels, LoadingModels
from hub.bootstrap.records import build_records
from hub.config import Settings
from hub.domain.delivery import RetryPolicy
from hub.domain.model_runtime import OnnxRuntime
from hub.domain.routing import Route
from hub.durable import Engine, JobQueue, Queue
from hub.errors import CaidxError
from hub.fetching import FETCH_JOB, FETCH_QUEUE, FETCHES_AT_ONCE
from hub.formats.route_expression import compile_expression
from hub.order_steps import OrderSteps
from hub.order_values import OrderValues
from hub.pipeline import Pipeline
from hub.ports import Health, ImageRenderer, ModelAdapter, at_first_call
from hub.prior_steps import PRIORS_JOB, PRIORS_QUEUE
from hub.registry import Registry
from hub.report_steps import delivery_queue
from hub.store import registrations
from hub.store.abandoning import ABANDON_JOB
from hub.store.delivery_ledger import DELIVERY_JOB, DeliveryLedger
from hub.store.housekeeper import EngineRecords, Housekeeper
from hub.store.index_mark import index_mark
from hub.store.order_rows import ORDER_JOB, ORDER_QUEUE
from hub.store.report_ledger import REPORT_JOB
from hub.store.request_ledger import REQUEST_JOB, RequestLedger
from hub.store.retention import Kept, RetentionPolicy, StudyKeeper
from hub.store.series_progress import SeriesTimes
from hub.study_steps import STUDY_JOB, STUDY_QUEUE, inference_queue
from hub.supervisor.faults import Loop, isolated
from hub.supervisor.processes import settle_after_start, this_process
from hub.supervisor.rendering import ProcessRenderer
from hub.supervisor.takeover import SignsOfLife, Takeover

_rehearse = at_first_call("hub.formats.rehearsal:rehearse")
_COMPLETENESS_SECONDS = 0.02
_SERIES_SECONDS = 0.25
_ARCHIVES_SECONDS = 0.2
_PRIORS_SECONDS = 5.0
_MODELS_SECONDS = 1.0
_ELSEWHERE_AT_ONCE = 32
"""Requests in one worker to models that run elsewhere: it waits for most of their time."""
_PRIORS_AT_ONCE = 4
_ORDERS_AT_ONCE = 4
_STOP_SECONDS = 10
_SILENT_HEARTBEATS = 5

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


def build_pipeline(
    hub: Hub,
    registry: Registry,
    jobs: JobQueue,
    actor: str,
    *,
    archives: Archives,
    images: ImageRenderer,
) -> Pipeline:
    """The steps of the path of a study, wired to this process's parts."""
    journal = hub.journal(actor)
    retry = RetryPolicy(first_delay=1.0, max_delay=60.0, attempts=3)
    requests = RequestLedger(hub.database, jobs, journal, retry)
    fetching = build_fetching(hub, archives, jobs, actor)
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
        context=encoding_context(hub, images),
        series_times=SeriesTimes(
            quiet=timedelta(seconds=hub.settings.completeness.series_quiet_seconds)
        ),
        indexed_until=index_mark(hub.objects.root).get,
        fetching=fetching,
        priors=build_prior_steps(hub, fetching, requests, registry),
        unique_accession_numbers=hub.settings.identity.unique_accession_numbers,
        shows_reports=takes_orders(hub),
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
    images: ProcessRenderer
    order_values: OrderValues | None = None
    """Gathers what orders need; None where nobody places any."""
    models: LiveModels | None = None
    """Models come and go; None: they stay as they are."""
    _loops: tuple[Loop, ...] = ()
    _mark: datetime | None = None
    """The index mark with which nothing was due."""
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin to run jobs, and to look after those of dead workers."""
        self.life.register("worker")
        pipeline, interval = self.pipeline, self.hub.settings.workers.heartbeat_seconds
        self.archives.start()
        self.engine.start(
            {
                **self._fetching_jobs(),
                **self._order_jobs(),
                STUDY_JOB: self._isolated(pipeline.run_study, pipeline.study_failed),
                REQUEST_JOB: self._isolated(pipeline.run_request, pipeline.request_failed),
                ABANDON_JOB: self._isolated(pipeline.run_abandon, pipeline.abandon_failed),
                REPORT_JOB: self._isolated(pipeline.run_report, pipeline.report_failed),
                DELIVERY_JOB: self._isolated(pipeline.run_delivery, pipeline.delivery_failed),
            },
            self._queues(),
        )
        self._loops = (
            Loop("completeness", self._complete, _COMPLETENESS_SECONDS),
            Loop("heartbeat", lambda: self.life.beat(self.health()), interval),
            Loop("takeover", lambda: self.takeover.take_over_jobs(self.engine), interval),
            Loop("retention", self.housekeeper.turn, self.hub.settings.retention.every_seconds),
            Loop("models", self._look_at_models, _MODELS_SECONDS),
        )
        if pipeline.fetching is not None and pipeline.fetching.rules:
            self._loops += (Loop("archives", self._ask_archives, _ARCHIVES_SECONDS),)
        if self.archives.by_name:
            self._loops += (Loop("priors", self._route_priors, _PRIORS_SECONDS),)
        if pipeline.starts_with_series:
            self._loops += (Loop("series", self._start_series, _SERIES_SECONDS),)
        for loop in self._loops:
            loop.start()
        self._tell_unknown_models()
        threading.Thread(target=self._rehearse, name="rehearsal", daemon=True).start()

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
        for record in () if self.order_values is None else self.order_values.records.values():
            record.close()
        self.images.close()
        self.jobs.close()

    def _complete(self) -> None:
        """Nothing becomes due while the mark stands still: then the database is not asked."""
        mark = index_mark(self.hub.objects.root).get()
        if mark == self._mark:
            return
        if self.pipeline.complete_due_studies() == 0:
            self._mark = mark

    def _look_at_models(self) -> None:
        """Load what was activated, forget what was suspended, with all who wait for it; and have
        queues."""
        if self.models is None:
            return
        self.models.look()
        self.pipeline.requests.wake_stopped()
        for queue in (*self._inference_queues(), *self._priors_queue()):
            self.engine.open(queue)

    def _tell_unknown_models(self) -> None:
        """A route whose model is neither configured nor registered never asks anybody."""
        registry = self.pipeline.registry
        known = {*registry.models, *registry.broken_models, *registry.suspended}
        with self.hub.database.read() as connection:
            known |= {one.model.model_id for one in registrations.all_of(connection)}
        for route in self.pipeline.routes:
            if route.model not in known:
                with self.hub.database.write() as connection:
                    self.pipeline.journal.alarm(
                        connection,
                        "route.model-unknown",
                        f"route:{route.name}",
                        reason=f"its model {route.model} is neither configured nor registered",
                    )

    def _start_series(self) -> None:
        self.pipeline.start_complete_series()

    def _route_priors(self) -> None:
        self.pipeline.route_priors_sent_for_themselves()

    def _ask_archives(self) -> None:
        if self.pipeline.fetching is not None:
            self.pipeline.fetching.ask_archives()

    def _rehearse(self) -> None:
        """Without it the first report after a start takes half a second longer."""
        pipeline = self.pipeline
        context = replace(pipeline.context(), images=None)  # no process is started for it
        try:
            for running in islice(pipeline.registry.models.values(), 1):
                key, card = running.package.key, running.package.card
                _rehearse(pipeline.encoders_in_use, key, card, context)
        except CaidxError as error:
            log.warning("worker.rehearsal-failed", model_id=card.id, reason=str(error))
        finally:
            settle_after_start()

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

    def _order_jobs(self) -> dict[str, Callable[[str], None]]:
        values = self.order_values
        if values is None:
            return {}

        def steps() -> OrderSteps:
            return OrderSteps(steps=self.pipeline.study_steps, values=values)

        def run_order(argument: str) -> None:
            self.pipeline.catch_up()
            steps().run_order(argument)

        return {
            ORDER_JOB: self._isolated(
                run_order,
                lambda argument, reason: steps().order_failed(argument, reason),
            )
        }

    def _queues(self) -> tuple[Queue, ...]:
        registry = self.pipeline.registry
        at_once = max(2, os.cpu_count() or 1)
        delivery = {d.concurrency for d in registry.destinations.values()}
        return (
            Queue(STUDY_QUEUE, worker_concurrency=at_once),
            *self._inference_queues(),
            *(Queue(delivery_queue(n), n) for n in sorted(delivery)),
            *self._fetching_queues(),
            *self._order_queues(),
        )

    def _order_queues(self) -> tuple[Queue, ...]:
        if self.order_values is None:
            return ()
        return (Queue(ORDER_QUEUE, worker_concurrency=_ORDERS_AT_ONCE),)

    def _fetching_queues(self) -> tuple[Queue, ...]:
        """Each queue costs its own polling: only where there is something to fetch, or a model
        that wants priors."""
        fetches = (Queue(FETCH_QUEUE, FETCHES_AT_ONCE),) if self.archives.are_asked else ()
        return (*fetches, *self._priors_queue())

    def _priors_queue(self) -> tuple[Queue, ...]:
        models = self.pipeline.registry.models.values()
        wants_priors = any(m.package.card.input.priors is not None for m in models)
        return (Queue(PRIORS_QUEUE, worker_concurrency=_PRIORS_AT_ONCE),) if wants_priors else ()

    def _inference_queues(self) -> tuple[Queue, ...]:
        models = self.pipeline.registry.models.values()
        runtimes = {inference_queue(m.package.card.runtime): m.package.card.runtime for m in models}
        here = max(2, os.cpu_count() or 1)
        return tuple(
            Queue(
                name,
                runtime.concurrency,
                worker_concurrency=here if isinstance(runtime, OnnxRuntime) else _ELSEWHERE_AT_ONCE,
            )
            for name, runtime in sorted(runtimes.items())
        )


def build_worker(hub: Hub, loading: LoadingModels) -> Worker:
    """The engine, the models and the destinations of one worker process."""
    process = this_process("worker")
    silence = timedelta(seconds=hub.settings.workers.heartbeat_seconds * _SILENT_HEARTBEATS)
    engine = Engine(hub.database.url, process.executor_id)
    jobs = JobQueue(hub.database.url, engine.look_now)
    registry = loading.registry.result()
    archives = build_archives(hub, process)
    images = ProcessRenderer(hub.objects)
    actor = f"worker:{process.executor_id}"
    return Worker(
        hub=hub,
        life=SignsOfLife(hub.database, process, hub.clock),
        takeover=Takeover(hub.database, process, hub.clock, silence),
        engine=engine,
        jobs=jobs,
        adapters=loading.adapters,
        pipeline=build_pipeline(hub, registry, jobs, actor, archives=archives, images=images),
        order_values=OrderValues(hub.database, build_records(hub)) if takes_orders(hub) else None,
        images=images,
        archives=archives,
        models=loading.models,
        housekeeper=build_housekeeper(hub, engine, process.executor_id),
    )
