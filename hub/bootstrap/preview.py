"""Show what a model says of a stored study, as one document, without keeping or sending it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hub.bootstrap.adapters import Adapters
from hub.bootstrap.encoding import ENCODERS, encoding_context
from hub.bootstrap.hub import Hub
from hub.bootstrap.model_register import ListedModel, ModelRegister, register_of
from hub.bootstrap.models import build_adapters, load_one
from hub.bootstrap.worker import routes_of
from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import (
    Deferred,
    ImagingInput,
    InferenceRequest,
    InferenceResult,
    InputRole,
    Priority,
)
from hub.domain.model_runtime import VendorHttpRuntime
from hub.domain.routing import Match, match
from hub.domain.study import Series, Study
from hub.errors import ConfigError, RejectedError
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
    version: str = "",
) -> Preview:
    """Run a model on the newest whole revision of a study and encode its answer.

    Without ``version`` the one that is in use is run. Without named series those that a route gives
    to this model are taken, or all of them where no route does. That it was done is audited;
    nothing of the answer is kept.

    Raises:
        RejectedError: no such study or model, none of these series, or the model runs at its
            vendor.
        IntegrityError: the answer belongs to somebody else.
    """
    study = _study(hub, study_instance_uid)
    with _loaded(hub, model_id, version) as running:
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
    if isinstance(result, Deferred):
        raise RejectedError("the model answers later: it cannot be tried like this")
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
def _loaded(hub: Hub, model_id: str, version: str) -> Iterator[RunningModel]:
    """The model in a worker process of its own; no other one is loaded. It need not be active: so
    a person can see what it says before."""
    register = register_of(hub)
    found = register.find(model_id, version)
    adapters = build_adapters(hub)
    try:
        yield _running(hub, register, found, adapters)
    finally:
        for adapter in adapters.values():
            adapter.close()


def _running(
    hub: Hub, register: ModelRegister, found: ListedModel, adapters: Adapters
) -> RunningModel:
    try:
        package = register.package(found)
        if isinstance(package.card.runtime, VendorHttpRuntime):  # it could not get the images
            message = f"model {found.id} runs at its vendor, who is asked real requests only"
            raise RejectedError(f"{message}: try it by a route with mode: shadow")
        return load_one(hub, adapters, package, found.adapter)
    except ConfigError as error:
        raise RejectedError(f"model {found.id} cannot run: {error}") from error


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
