"""Show what a model says of a stored study, as one document, without keeping or sending it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from hub.bootstrap.encoding import ENCODERS, encoding_context
from hub.bootstrap.hub import Hub
from hub.bootstrap.models import build_adapters, load_registry
from hub.bootstrap.worker import routes_of
from hub.config import model_id_of
from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import (
    ImagingInput,
    InferenceRequest,
    InferenceResult,
    InputRole,
    Priority,
)
from hub.domain.routing import Match, match
from hub.domain.study import Series, Study
from hub.errors import RejectedError
from hub.formats.encoding import FIRST_VERSION, check_document_identity
from hub.pipeline import Pipeline
from hub.registry import RunningModel
from hub.report_steps import DocumentMaker, Made
from hub.store import instances, studies
from hub.supervisor.rendering import ProcessRenderer

PREVIEW = "preview"
_REFERRED_TO = frozenset({DocumentKind.SEG, DocumentKind.SR, DocumentKind.PARAMETRIC_MAP})
"""What other documents name, so that a preview shows them as a destination with all of them gets
them."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What would have been sent."""

    result: InferenceResult
    document: Document | None
    """None: the result has nothing of this kind."""


def preview(
    hub: Hub,
    model_id: str,
    study_instance_uid: str,
    kind: DocumentKind,
    *,
    actor: str,
    series_instance_uids: tuple[str, ...] = (),
) -> Preview:
    """Run a model on the newest whole revision of a study and encode its answer.

    Without named series those that a route gives to this model are taken, or all of them where no
    route does. That it was done is audited; nothing of the answer is kept.

    Raises:
        RejectedError: no such study or model, or none of these series.
        IntegrityError: the answer belongs to somebody else.
    """
    study = _study(hub, study_instance_uid)
    with _loaded(hub, model_id) as running:
        chosen = series_instance_uids or _routed(hub, study, model_id)
        request = _request(running, study, _series_of(study, chosen))
        hub_journal = hub.journal(actor)
        with hub.database.write() as connection:
            hub_journal.record(
                connection,
                "model.previewed",
                f"model:{running.package.key}",
                study_instance_uid,
                document=kind.value,
            )
        result = Pipeline.infer(running, request)
    check_document_identity(request, result)
    made = _make(hub, running, request, result, kind)
    found = (one for one in made.documents.values() if one.kind is kind)
    return Preview(result, next(found, None))


def _study(hub: Hub, study_instance_uid: str) -> Study:
    with hub.database.read() as connection:
        key = studies.latest_whole_revision(connection, study_instance_uid)
        if key is None:
            raise RejectedError("no such study has arrived, or it is still being received")
        return instances.load_study(connection, key)


@contextmanager
def _loaded(hub: Hub, model_id: str) -> Iterator[RunningModel]:
    """The model in a worker process of its own; no other one is loaded."""
    models = tuple(m for m in hub.settings.models if model_id_of(m.package) == model_id)
    if not models:
        raise RejectedError(f"no model {model_id} is configured")
    only = replace(hub, settings=hub.settings.model_copy(update={"models": models}))
    adapters = build_adapters(only)
    try:
        yield load_registry(only, adapters).model(model_id)
    finally:
        for adapter in adapters.values():
            adapter.close()


def _routed(hub: Hub, study: Study, model_id: str) -> tuple[str, ...]:
    for route in routes_of(hub.settings):
        decision = match(route, study) if route.model == model_id else None
        if isinstance(decision, Match):
            return decision.series_instance_uids
    return ()


def _series_of(study: Study, chosen: tuple[str, ...]) -> tuple[Series, ...]:
    series = study.with_series(chosen) if chosen else study.series
    if len(series) < len(chosen):
        raise RejectedError("the study has no such series")
    return series


def _request(running: RunningModel, study: Study, series: tuple[Series, ...]) -> InferenceRequest:
    return InferenceRequest(
        request_id=PREVIEW,
        model=running.package.key,
        route=PREVIEW,
        priority=Priority.ROUTINE,
        study=study,
        inputs=(ImagingInput(InputRole.CURRENT, series),),
        reasons=("a person asked for a preview",),
    )


def _make(
    hub: Hub,
    running: RunningModel,
    request: InferenceRequest,
    result: InferenceResult,
    kind: DocumentKind,
) -> Made:
    images = ProcessRenderer(hub.objects)
    context = encoding_context(hub, images)
    maker = DocumentMaker(encoders=ENCODERS, context=context, clock=hub.clock)
    try:
        return maker.make(
            request,
            result,
            running.package.card,
            FIRST_VERSION,
            destinations={PREVIEW: {kind} | _REFERRED_TO},
        )
    finally:
        images.close()
