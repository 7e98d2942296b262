"""Models are registered, activated, suspended and retired.

A package comes as a ZIP file, or as ``model.yaml`` alone where somebody else runs the model. A
vendor brings and stops its own models; whoever runs the hub lets routes use them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from tempfile import TemporaryFile
from typing import IO, Any

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from hub.bootstrap.registration import ModelDesk
from hub.domain.access import Principal
from hub.errors import ConfigError, RejectedError
from hub.formats.manifest.package_archive import PackageArchive, looks_like_archive
from hub.registration import NotYoursError, Registrar
from hub.store.package_store import (
    Offered,
    OfferedArchive,
    OfferedManifest,
    no_space_is_transient,
)
from hub.store.packages import MAXIMUM_MANIFEST_BYTES
from hub.store.registrations import (
    NoSuchModelError,
    Registration,
    RegistrationConflictError,
)
from hub.web.api.models import visible
from hub.web.context import Context, WebContext
from hub.web.door import CurrentPrincipal
from hub.web.errors import problem

router = APIRouter(prefix="/models", tags=["models"])

_LOOK_BYTES = 16 << 20
"""Of an upload, between two looks at the space that is left."""
_UPLOAD = "upload"
"""What messages call the body."""
_MANIFEST_EXAMPLE = {"schema": {"type": "string"}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/zip": {"schema": {"type": "string", "format": "binary"}},
            "application/yaml": _MANIFEST_EXAMPLE,
        },
    }
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Stop(_Body):
    """Why the state of a model changes."""

    reason: str = Field(min_length=1, max_length=1000)
    """Stands in the audit log and in the register."""


class Choice(Stop):
    """Why, and which version."""

    version: str = Field(default="", max_length=64)
    """Left out: the one in question, where there is only one."""
    sha256: str = Field(default="", max_length=64, pattern="^[0-9a-fA-F]*$")
    """Or how its digest begins."""


class RegisteredModel(BaseModel):
    """A version of a model, and where it stands."""

    id: str
    version: str
    sha256: str
    state: str


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    openapi_extra=_BODY,
    responses={
        200: {"description": "The same package is registered already", "model": RegisteredModel},
        403: {"description": "It is another vendor's"},
        409: {"description": "Its id or its version is taken, or it was retired"},
        413: {"description": "It is larger than any may be"},
        422: {"description": "It is wrong; `errors` lists each mistake with its line"},
        503: {"description": "No space left, or too many packages come at once"},
    },
    response_model=RegisteredModel,
)
async def register(
    request: Request, response: Response, context: Context, principal: CurrentPrincipal
) -> Any:
    """Check a package and keep it: `application/zip`, or `application/yaml` of a model that needs
    no files. It is loaded once; `activate` lets routes use it."""
    desk = _desk(context)
    with context.uploads.one(principal.actor), TemporaryFile(dir=desk.folder) as file:
        await _spool(request, file, desk)
        registrar = desk.registrar(principal)
        work = partial(_registered, registrar, file, desk.maximum_bytes)
        answer = await run_in_threadpool(_answered, request, work)
    if isinstance(answer, Response):
        return answer
    registration, is_new = answer
    if not is_new:
        response.status_code = HTTPStatus.OK
    response.headers["Location"] = f"/api/v1/models/{registration.model.model_id}"
    return _registered_model(registration)


@router.post(
    "/{model_id}/activate",
    responses={
        404: {"description": "No such model"},
        409: {"description": "It cannot be activated"},
        422: {"description": "It does not load"},
    },
    response_model=RegisteredModel,
)
def activate(
    model_id: str, choice: Choice, request: Request, context: Context, principal: CurrentPrincipal
) -> Any:
    """Let routes use a version, in place of the one that was active; it is loaded once before."""
    desk = _desk(context)
    registrar = desk.registrar(principal)

    def work() -> tuple[Registration, bool]:
        found = desk.register.find_to_activate(model_id, choice.version, choice.sha256)
        return registrar.activate(desk.register.package(found), choice.reason)

    return _told(_answered(request, work))


@router.post(
    "/{model_id}/suspend",
    responses={404: {"description": "No such model"}, 409: {"description": "It is not active"}},
    response_model=RegisteredModel,
)
def suspend(
    model_id: str, stop: Stop, request: Request, context: Context, principal: CurrentPrincipal
) -> Any:
    """Stop a model at once: nothing is asked of it until a person activates it again."""
    desk = _desk(context)
    registrar = desk.registrar(principal)

    def work() -> tuple[Registration, bool]:
        _refuse_invisible(context, principal, model_id)
        found = desk.register.find(model_id)
        return registrar.suspend(found.key, found.vendor, stop.reason)

    return _told(_answered(request, work))


@router.post(
    "/{model_id}/retire",
    responses={404: {"description": "No such model"}, 409: {"description": "Several fit"}},
    response_model=RegisteredModel,
)
def retire(
    model_id: str, choice: Choice, request: Request, context: Context, principal: CurrentPrincipal
) -> Any:
    """Stop a version for good: it cannot be activated or registered again."""
    desk = _desk(context)
    registrar = desk.registrar(principal)

    def work() -> tuple[Registration, bool]:
        _refuse_invisible(context, principal, model_id)
        found = desk.register.find(model_id, choice.version, choice.sha256)
        return registrar.retire(found.key, found.vendor, choice.reason)

    return _told(_answered(request, work))


def _desk(context: WebContext) -> ModelDesk:
    if context.desk is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "no models are registered here")
    return context.desk


def _refuse_invisible(context: WebContext, principal: Principal, model_id: str) -> None:
    """A vendor is not told of the models of others."""
    if not any(one.id == model_id for one in visible(context, principal)):
        raise NoSuchModelError(f"no model {model_id} is configured or registered")


async def _spool(request: Request, file: IO[bytes], desk: ModelDesk) -> None:
    """The body, to the disk.

    Raises:
        HTTPException: 413; 400, it broke off.
        TransientError: no space left.
    """
    received, looked_at = 0, -_LOOK_BYTES
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > desk.maximum_bytes:
                status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                raise HTTPException(status, f"a package has at most {desk.maximum_bytes} bytes")
            if received - looked_at >= _LOOK_BYTES:
                looked_at = received
                await run_in_threadpool(desk.must_have_room)
            await run_in_threadpool(_write, file, chunk)
    except ClientDisconnect:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "the package broke off") from None


def _write(file: IO[bytes], chunk: bytes) -> None:
    with no_space_is_transient():
        file.write(chunk)


def _registered(
    registrar: Registrar, file: IO[bytes], maximum_bytes: int
) -> tuple[Registration, bool]:
    with _offered(file, maximum_bytes) as offered:
        return registrar.register(offered)


@contextmanager
def _offered(file: IO[bytes], maximum_bytes: int) -> Iterator[Offered]:
    """What the bytes are tells them apart, whatever they are called."""
    file.seek(0)
    start = file.read(MAXIMUM_MANIFEST_BYTES + 1)
    if looks_like_archive(start):
        yield OfferedArchive(PackageArchive(file, _UPLOAD, maximum_bytes=maximum_bytes))
    else:
        yield OfferedManifest(start)


def _answered(
    request: Request, work: Callable[[], tuple[Registration, bool]]
) -> tuple[Registration, bool] | Response:
    """What came of it, or the problem document that tells why nothing did."""
    try:
        return work()
    except ConfigError as error:
        errors = [
            {"line": one.line, "field": one.field, "message": one.message} for one in error.problems
        ]
        detail = "the package is not what it has to be"
        return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)
    except NotYoursError as error:
        return problem(request, HTTPStatus.FORBIDDEN, str(error))
    except NoSuchModelError as error:
        return problem(request, HTTPStatus.NOT_FOUND, str(error))
    except (RegistrationConflictError, RejectedError) as error:
        return problem(request, HTTPStatus.CONFLICT, str(error))


def _told(answer: tuple[Registration, bool] | Response) -> RegisteredModel | Response:
    return answer if isinstance(answer, Response) else _registered_model(answer[0])


def _registered_model(registration: Registration) -> RegisteredModel:
    return RegisteredModel(
        id=registration.model.model_id,
        version=registration.model.version,
        sha256=registration.model.sha256,
        state=registration.state.value,
    )
