"""Metrics for Prometheus, counted in the database at each scrape. No patient data, no UIDs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fastapi import APIRouter, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hub.domain.delivery import DeliveryState
from hub.domain.inference import Outcome
from hub.errors import TransientError
from hub.store.counts import Counts, counts
from hub.store.delivery_ledger import ALARMING
from hub.store.report_versions import VersionState
from hub.store.results import RequestState
from hub.web.context import Context, WebContext

router = APIRouter(tags=["monitoring"])

_STUDY_STATES = ("receiving", "complete", "routed")


@router.get("/metrics", response_class=Response)
def metrics(context: Context) -> Response:
    """The state of the hub and of this process, in the text format of Prometheus."""
    registry = CollectorRegistry()
    PlatformCollector(registry)
    ProcessCollector(registry=registry)
    registry.register(HubCollector(context))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class HubCollector(Collector):
    """Reads the counts when it is asked for them."""

    def __init__(self, context: WebContext) -> None:
        self._context = context

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("caidx_build_info", "Version of the hub.", labels=["version"])
        info.add_metric([self._context.version], 1)
        yield info
        yield self._refused()
        up = GaugeMetricFamily("caidx_database_up", "1 when the database can be read.")
        try:
            found = counts(self._context.database)
        except TransientError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from self._counted(found)

    def _refused(self) -> Metric:
        text = "Requests that the door of this process refused."
        family = CounterMetricFamily("caidx_http_refused", text, labels=["reason"])
        for reason, count in self._context.refusals.counts.items():
            family.add_metric([reason], count)
        return family

    def _counted(self, found: Counts) -> Iterator[Metric]:
        yield _by(
            "caidx_study_revisions", "Revisions of studies.", "state", found.studies, _STUDY_STATES
        )
        yield _by(
            "caidx_requests", "Inference requests.", "state", found.requests, tuple(RequestState)
        )
        yield _by("caidx_results", "Answers of models.", "outcome", found.outcomes, tuple(Outcome))
        text = "Versions of reports, by how far they are made."
        yield _by("caidx_report_versions", text, "state", found.reports, tuple(VersionState))
        yield _by("caidx_alerts", "Alerts raised.", "kind", found.alerts, ())
        yield _deliveries(found)
        dead = sum(n for (_, state), n in found.deliveries.items() if state in ALARMING)
        failed = found.requests.get(RequestState.FAILED, 0)
        quarantined = found.requests.get(RequestState.QUARANTINED, 0)
        letters = {
            "delivery": dead,
            "request": failed + quarantined,
            "report": found.reports.get(VersionState.FAILED, 0),
        }
        help_text = "Work that failed for good and waits for a person."
        yield _by("caidx_dead_letters", help_text, "kind", letters, ())
        oldest = GaugeMetricFamily(
            "caidx_oldest_undelivered_seconds",
            "Age of the oldest document that waits for its destination; 0 when none waits.",
        )
        oldest.add_metric([], self._age(found))
        yield oldest

    def _age(self, found: Counts) -> float:
        if found.oldest_undelivered is None:
            return 0.0
        return max(0.0, (self._context.clock.now() - found.oldest_undelivered).total_seconds())


def _by(
    name: str, text: str, label: str, values: Mapping[str, int], always: tuple[str, ...]
) -> GaugeMetricFamily:
    """One gauge per value of the label; those that always exist are there with 0, too."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for value in dict.fromkeys([*map(str, always), *values]):
        family.add_metric([value], values.get(value, 0))
    return family


def _deliveries(found: Counts) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "caidx_deliveries", "Documents on their way.", labels=["destination", "state"]
    )
    for destination in sorted({name for name, _ in found.deliveries}):
        for state in DeliveryState:
            family.add_metric(
                [destination, state.value], found.deliveries.get((destination, state.value), 0)
            )
    return family
