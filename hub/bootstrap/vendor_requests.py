"""What vendors send and fetch about the requests that they were asked: answers, and images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from hub.bootstrap.adapters import adapter_kind
from hub.bootstrap.hub import Hub
from hub.bootstrap.model_register import ModelRegister
from hub.bootstrap.vendor_door import RetrievalTokens
from hub.domain.inference import ModelKey
from hub.domain.model_card import ModelCard
from hub.domain.study import Instance
from hub.errors import ConfigError, RejectedError, TransientError
from hub.ports import CallbackVerifier, Jobs, ModelPackage, ObjectStore
from hub.prior_steps import prior_inputs
from hub.store import instances, results
from hub.store.callbacks import CallbackLedger, Taken
from hub.store.journal import Journal
from hub.store.registrations import NoSuchModelError
from hub.store.results import OPEN_STATES, RequestRow
from hub.store.schema import requests

_NOBODY = "no request of yours has this identifier, or the signature is not right"
_WHO_SIGNS = "the hub cannot tell now who signs for the model"
_WHAT_WAS_GIVEN = "the hub cannot tell now which images the model is given"
_NO_IMAGES = "the token is not for this request, or its time is over"


class RequestOverError(RejectedError):
    """It was about a request that has ended."""


@dataclass(frozen=True, slots=True)
class RequestImages:
    """What a vendor may fetch: the instances of one request, in every role."""

    instances: tuple[Instance, ...]
    objects: ObjectStore

    def below(self, study: str, series: str = "", instance: str = "") -> tuple[Instance, ...]:
        """Those of a study, of one of its series, or one of them; by their UIDs."""
        return tuple(
            one
            for one in self.instances
            if one.study_instance_uid == study
            and series in ("", one.series_instance_uid)
            and instance in ("", one.sop_instance_uid)
        )


class VendorRequests:
    """Thread-safe. Everything may raise ``TransientError``: not now.

    Args:
        hub: see there.
        jobs: what puts jobs into transactions, loaded when it is first asked for.
    """

    def __init__(self, hub: Hub, jobs: Callable[[], Jobs]) -> None:
        self._hub = hub
        self._jobs = jobs
        self._register = ModelRegister(hub.settings, hub.components, hub.database)
        self._tokens = RetrievalTokens(hub.settings.data)
        self._known: dict[ModelKey, tuple[ModelPackage, CallbackVerifier]] = {}
        self._lock = threading.Lock()

    # --- answers -----------------------------------------------------------------------------

    def request(self, request_id: str) -> RequestRow:
        """The request that a message is about; nothing of the message was read yet.

        Raises:
            RejectedError: there is none.
        """
        row = self._row(request_id)
        if row is None:
            raise RejectedError(_NOBODY)
        return row

    def take(self, row: RequestRow, headers: Mapping[str, str], body: bytes) -> Taken:
        """Keep a vendor's answer, if it is his, and have the request go on.

        Raises:
            RejectedError: it is not signed by the vendor that was asked.
        """
        package, verify = self._verifier(row.model)
        message_id = verify(package, headers, body)
        jobs = self._jobs()  # before the transaction, which would wait for it
        journal = Journal(self._hub.clock, f"vendor:{row.model.model_id}")
        return CallbackLedger(self._hub.database, jobs, journal).take(
            row.request_id, message_id, body
        )

    def _verifier(self, model: ModelKey) -> tuple[ModelPackage, CallbackVerifier]:
        with self._lock:
            if model not in self._known:
                self._known[model] = self._found(model)
            return self._known[model]

    def _found(self, model: ModelKey) -> tuple[ModelPackage, CallbackVerifier]:
        try:
            listed = self._register.find(model.model_id, sha256=model.sha256)
            package = self._register.package(listed)
            runtime, manifest = package.card.runtime.kind, str(package.directory)
            kind = adapter_kind(self._hub, runtime, listed.adapter, manifest)
        except (ConfigError, NoSuchModelError) as error:
            # He was asked, so it was known: that its package cannot be read now is not his fault.
            raise TransientError(_WHO_SIGNS) from error
        callbacks = self._hub.components.adapters[kind].callbacks
        if callbacks is None:
            raise RejectedError(_NOBODY)
        return package, callbacks(self._hub.settings.adapters[kind], self._hub.clock)

    # --- images ------------------------------------------------------------------------------

    def images(self, request_id: str, token: str) -> RequestImages:
        """The images of a request, for whoever has its token; the first time is recorded.

        Raises:
            RejectedError: the token does not open them.
            RequestOverError: nobody works on the request any more, or its images were deleted.
        """
        # the token first: whoever has none does not get as far as the database
        is_open = self._tokens.opens(token, request_id, self._hub.clock.now())
        row = self._row(request_id) if is_open else None
        if row is None:
            raise RejectedError(_NO_IMAGES)
        if row.state not in OPEN_STATES:
            raise RequestOverError("the request has ended")
        card = self._card(row.model)
        with self._hub.database.read() as connection:
            try:
                study = instances.load_study(connection, row.study)
            except RejectedError as error:
                raise RequestOverError(str(error)) from error
            current = study.with_series(row.series_instance_uids)
            wish = card.input.priors
            priors = () if wish is None else prior_inputs(connection, row, study, wish)
        found = [i for one in current for i in one.instances]
        found += [i for given in priors for one in given.series for i in one.instances]
        self._record(row, len(found))
        return RequestImages(tuple(found), self._hub.objects)

    def _card(self, model: ModelKey) -> ModelCard:
        """It says whether there are priors among the images: without it nobody knows."""
        try:
            card = self._register.find(model.model_id, sha256=model.sha256).card
        except NoSuchModelError as error:
            raise TransientError(_WHAT_WAS_GIVEN) from error
        if card is None:
            raise TransientError(_WHAT_WAS_GIVEN)
        return card

    def _record(self, row: RequestRow, count: int) -> None:
        """Once for each request."""
        now = self._hub.clock.now()
        this = (requests.c.request_id == row.request_id, requests.c.images_retrieved_at.is_(None))
        with self._hub.database.read() as connection:
            query = sa.select(requests.c.request_id).where(*this)
            if connection.execute(query).first() is None:
                return
        with self._hub.database.write() as connection:
            done = sa.update(requests).where(*this).values(images_retrieved_at=now)
            if connection.execute(done.returning(requests.c.request_id)).first() is None:
                return
            journal = Journal(self._hub.clock, f"vendor:{row.model.model_id}")
            entity, uid = f"request:{row.request_id}", row.study.study_instance_uid
            journal.record(
                connection, "images.retrieved", entity, uid, model=str(row.model), instances=count
            )

    def _row(self, request_id: str) -> RequestRow | None:
        with self._hub.database.read() as connection:
            query = sa.select(requests).where(requests.c.request_id == request_id)
            row = connection.execute(query).one_or_none()
        return None if row is None else results.request_from_row(row)
