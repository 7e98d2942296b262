"""Has a vendor's service answer, at once or later, by the published contract (docs/contract)."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from hub.domain.inference import Deferred, InferenceRequest, InferenceResult, ModelKey, Unsuitable
from hub.domain.model_card import ModelCard
from hub.domain.model_runtime import VendorHttpRuntime
from hub.errors import (
    ConfigError,
    ConfigProblem,
    JobLostError,
    RejectedError,
    TransientError,
)
from hub.formats.contract.messages import decode_answer, encode_request
from hub.ports import AdapterContext, Health, HealthState, ModelPackage, Retrieval
from hub.transport.address_guard import AddressGuard
from hub.transport.http_peer import HttpAnswer
from model_adapters.vendor_http.config import ServiceConfig, VendorHttpConfig
from model_adapters.vendor_http.promise import check_promise
from model_adapters.vendor_http.service import Service

_MANIFEST = "model.yaml"
_SOONEST_SECONDS = 1.0
"""A job is not asked after more often, unless its manifest wants that."""
_PATIENCE_SECONDS = 60.0
"""A vendor that calls back is asked of itself after so long: a call may be lost."""
_HTTPS_PORT, _HTTP_PORT = 443, 80


@dataclass(frozen=True, slots=True)
class _Vendor:
    """A model that can be asked."""

    card: ModelCard
    runtime: VendorHttpRuntime
    service: Service


class VendorHttpAdapter:
    """`hub.ports.ModelAdapter` and `hub.ports.Resuming`. Thread-safe; it holds nothing of a
    request: what it has to remember of a job stands in the `Deferred`."""

    def __init__(self, config: VendorHttpConfig, context: AdapterContext) -> None:
        self._config = config
        self._context = context
        self._guard = AddressGuard(context.private_networks)
        self._vendors: dict[ModelKey, _Vendor] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        self._since = context.clock.now()

    # --- models ------------------------------------------------------------------------------

    def load(self, package: ModelPackage) -> None:
        """See `hub.ports.ModelAdapter`; nothing is sent."""
        runtime = _runtime_of(package)
        service = _checked(self._config, package, self._context, self._guard)
        made = Service(service, runtime, self._context.clock, self._guard)
        with self._lock:
            before = self._vendors.get(package.key)
            self._vendors[package.key] = _Vendor(package.card, runtime, made)
        if before is not None:
            before.service.close()

    def unload(self, model: ModelKey) -> None:
        with self._lock:
            gone = self._vendors.pop(model, None)
        if gone is not None:
            gone.service.close()

    def health(self) -> Health:
        """Vendors have no health of their own here: each request finds out."""
        state = HealthState.STOPPED if self._is_closed else HealthState.HEALTHY
        return Health(state, f"{len(self._vendors)} models at vendors", self._since)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed, self._since = True, self._context.clock.now()
        for model in tuple(self._vendors):
            self.unload(model)

    # --- requests ----------------------------------------------------------------------------

    def infer(self, request: InferenceRequest) -> InferenceResult | Unsuitable | Deferred:
        """Ask; the request's own identifier lets the vendor work on it once."""
        vendor = self._vendor(request.model)
        content = encode_request(
            request,
            retrieve=self._retrieval(request, vendor.runtime),
            callback_url=self._callback_url(request, vendor.runtime),
        )
        answer = vendor.service.ask(request.request_id, content)
        return self._decoded(answer, request, vendor, known="")

    def resume(
        self, request: InferenceRequest, job: Deferred, answer: bytes | None
    ) -> InferenceResult | Unsuitable | Deferred:
        """Take the answer that was posted, or ask after the job."""
        vendor = self._vendor(request.model)
        if answer is not None:
            return self._posted(answer, request, vendor, job)
        if not job.job_reference:  # the deadline ends it
            return replace(job, not_before=self._end_of(request, vendor.runtime))
        found = vendor.service.ask_after(job.job_reference)
        if found is None:
            raise JobLostError("the vendor's service does not know the job any more")
        return self._decoded(found, request, vendor, known=job.job_reference)

    def abandon(self, model: ModelKey, job: Deferred) -> None:
        """Tell the vendor, where the job has a name."""
        if job.job_reference:
            self._vendor(model).service.cancel(job.job_reference)

    def _vendor(self, model: ModelKey) -> _Vendor:
        found = self._vendors.get(model)
        if found is None:
            raise TransientError(f"{model} is not loaded")
        return found

    def _retrieval(self, request: InferenceRequest, runtime: VendorHttpRuntime) -> Retrieval | None:
        if not request.images:
            return None
        if self._context.door is None:
            raise RejectedError("the hub has no address at which vendors get images")
        return self._context.door.images(request, self._end_of(request, runtime))

    def _callback_url(self, request: InferenceRequest, runtime: VendorHttpRuntime) -> str:
        if runtime.answer != "webhook":
            return ""
        if self._context.door is None:
            raise RejectedError("the hub has no address at which vendors can call back")
        return self._context.door.callback_url(request.request_id)

    def _end_of(self, request: InferenceRequest, runtime: VendorHttpRuntime) -> datetime:
        """When nobody waits any more."""
        within = timedelta(seconds=runtime.answer_within_seconds)
        return request.deadline or self._context.clock.now() + within

    # --- answers -----------------------------------------------------------------------------

    def _decoded(
        self, answer: HttpAnswer, request: InferenceRequest, vendor: _Vendor, *, known: str
    ) -> InferenceResult | Unsuitable | Deferred:
        """What a response says. ``known``: the job that was asked after."""
        now, poll = self._context.clock.now(), vendor.runtime.poll_seconds
        wait = poll if answer.retry_after is None else answer.retry_after
        try:
            said = decode_answer(answer.body, request, received_at=now, poll_seconds=wait)
        except TransientError as error:
            if known:
                raise JobLostError(str(error), retry_after=error.retry_after) from error
            raise
        if not isinstance(said, Deferred):
            return _kept(said, vendor, known)
        job = replace(said, job_reference=said.job_reference or known)
        soonest = now + timedelta(seconds=min(_SOONEST_SECONDS, poll))
        if vendor.runtime.answer != "webhook":
            if not job.job_reference:
                raise RejectedError("the answer: job_reference: nothing says what to ask after")
            return replace(job, not_before=max(job.not_before, soonest))
        if not job.job_reference:
            return replace(job, not_before=self._end_of(request, vendor.runtime))
        patience = now + timedelta(seconds=max(_PATIENCE_SECONDS, poll))
        return replace(job, not_before=max(job.not_before, patience))

    def _posted(
        self, body: bytes, request: InferenceRequest, vendor: _Vendor, job: Deferred
    ) -> InferenceResult | Unsuitable:
        try:
            said = decode_answer(body, request, received_at=self._context.clock.now())
        except TransientError as error:
            raise JobLostError(str(error), retry_after=error.retry_after) from error
        if isinstance(said, Deferred):
            raise RejectedError("the answer: status: a callback brings the answer itself")
        return _kept(said, vendor, job.job_reference)


def _kept(
    said: InferenceResult | Unsuitable, vendor: _Vendor, job_reference: str
) -> InferenceResult | Unsuitable:
    if isinstance(said, InferenceResult):
        check_promise(said, vendor.card.output)
    job = f" job {job_reference[:64]}" if job_reference else ""
    return replace(said, ran_on=f"vendor_http {_origin(vendor.runtime.url)}{job}")


def check(config: VendorHttpConfig, package: ModelPackage, context: AdapterContext) -> None:
    """Before a model is activated: may its service be asked, and are we somebody to it? Vendors'
    services have nothing in common that could be asked for without a request: none is sent.

    Raises:
        ConfigError: it may not.
        TransientError: its name cannot be resolved now.
    """
    guard = AddressGuard(context.private_networks)
    service = _checked(config, package, context, guard)
    runtime = _runtime_of(package)
    parts = urlsplit(runtime.url)
    port = parts.port or (_HTTPS_PORT if parts.scheme == "https" else _HTTP_PORT)
    try:
        guard.addresses(parts.hostname or "", port)
    except RejectedError as error:
        raise _problem(package, "runtime.url", str(error)) from error
    Service(service, runtime, context.clock, guard).close()


def _runtime_of(package: ModelPackage) -> VendorHttpRuntime:
    runtime = package.card.runtime
    if not isinstance(runtime, VendorHttpRuntime):
        raise _problem(package, "runtime.kind", "must be vendor_http")
    return runtime


def _checked(
    config: VendorHttpConfig, package: ModelPackage, context: AdapterContext, guard: AddressGuard
) -> ServiceConfig:
    """The service of a model, as the operator configured it.

    Raises:
        ConfigError: it is not, or the model cannot be asked with what is configured.
    """
    runtime = _runtime_of(package)
    try:
        guard.check_url(runtime.url)
    except RejectedError as error:
        raise _problem(package, "runtime.url", str(error)) from error
    service = config.service_of(runtime.url, package.card.vendor.name)
    if service is None:
        message = "no service of `adapters.vendor_http.services` in the configuration has this URL"
        raise _problem(package, "runtime.url", message)
    if runtime.answer == "webhook" and not _has_keys(service, package):
        message = "webhook: the service has no `webhook_secrets` in the configuration"
        raise _problem(package, "runtime.answer", message)
    if runtime.answer == "webhook" and context.door is None:
        raise _problem(package, "runtime.answer", "webhook: the hub has no door for vendors here")
    return service


def _has_keys(service: ServiceConfig, package: ModelPackage) -> bool:
    try:
        return bool(service.keys)
    except ValueError as error:  # what a reference led to
        message = f"webhook: a secret of `webhook_secrets` in the configuration {error}"
        raise _problem(package, "runtime.answer", message) from None


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _problem(package: ModelPackage, field: str, message: str) -> ConfigError:
    return ConfigError((ConfigProblem(str(package.directory / _MANIFEST), 0, field, message),))
