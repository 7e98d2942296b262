"""The interactions of the FHIR service (R4 http.html): which request means what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import format_datetime
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from connectors.fhir.acceptance import Acceptance, Done
from connectors.fhir.capability import capability_statement
from connectors.fhir.config import FhirSourceConfig
from connectors.fhir.exchange import FhirRequest, Reply
from connectors.fhir.parameters import SEARCHES, wanted_of
from connectors.fhir.plans import READ
from connectors.fhir.reading import Reader
from connectors.fhir.task_patch import cancelling_task
from hub.errors import CaidxError
from hub.formats.fhir.intake import TRANSACTION, Entry, condition_of, entries_of, query_of
from hub.formats.fhir.json_text import decoded
from hub.formats.fhir.outcome import (
    Issue,
    Refused,
    information,
    malformed,
    operation_outcome,
    refusal_of,
)
from hub.ports import SourceContext

Json = dict[str, Any]

_METADATA, _SEARCH, _HISTORY = "metadata", "_search", "_history"
_ORDER = {"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2, "GET": 3, "HEAD": 3}
"""R4 http.html#trules: in which order a transaction is processed."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the service works with."""

    config: FhirSourceConfig
    acceptance: Acceptance
    reader: Reader


class FhirService:
    """Answers requests whose body is read; blocks. Thread-safe."""

    def __init__(self, services: Services, context: SourceContext) -> None:
        self._config = services.config
        self._acceptance = services.acceptance
        self._reader = services.reader
        self._started_at: datetime = context.clock.now()

    def answer(self, request: FhirRequest) -> Reply:
        """The answer.

        Raises:
            CaidxError: `hub.formats.fhir.outcome.refusal_of` says what it means.
        """
        match request.method, request.path:
            case (("GET" | "HEAD"), _):
                return self._read(request)
            case "POST", (kind, last) if last == _SEARCH:
                return self._search(request, kind, (*request.query, *_form(request)))
            case "POST", ():
                return self._bundle(request, decoded(request.body))
            case ("POST", (_,)) | ("PUT", (_,) | (_, _)):
                return self._written(request, decoded(request.body))
            case "PATCH", ("Task", task_id):
                return self._written(request, self._patched(request, task_id))
            case _:
                raise _not_allowed(request)

    # --- reading -------------------------------------------------------------------------

    def _metadata(self, request: FhirRequest) -> Reply:
        url = request.base_url
        return Reply(
            HTTPStatus.OK, capability_statement(version("caidx-hub"), url, self._started_at)
        )

    def _read(self, request: FhirRequest) -> Reply:
        match request.path:
            case ():
                raise _not_allowed(request)
            case (first,) if first == _METADATA:
                return self._metadata(request)
            case (kind,):
                return self._search(request, kind, request.query)
            case (kind, resource_id):
                return self._one(request, kind, resource_id)
            case (kind, resource_id, history, version_id) if history == _HISTORY:
                return self._one(request, kind, resource_id, version_id)
            case _:
                raise _not_found("there is no such resource")

    def _one(self, request: FhirRequest, kind: str, name: str, version_id: str = "") -> Reply:
        _check_readable(kind)
        resource = self._reader.read(kind, name)
        meta = resource["meta"]
        if version_id and version_id != meta["versionId"]:
            raise _not_found("only the current version is kept")
        headers = _version_headers(meta)
        seen = {tag.strip() for tag in request.headers.get("if-none-match", "").split(",")}
        if headers["ETag"] in seen or "*" in seen:
            return Reply(HTTPStatus.NOT_MODIFIED, headers=headers)
        return Reply(HTTPStatus.OK, resource, headers)

    def _search(self, request: FhirRequest, kind: str, query: Sequence[tuple[str, str]]) -> Reply:
        _check_readable(kind)
        most = self._config.maximum_results
        wanted = wanted_of(kind, query, most, strict=request.is_strict)
        return Reply(HTTPStatus.OK, self._reader.searchset(wanted, request.base_url))

    # --- writing -------------------------------------------------------------------------

    def _written(self, request: FhirRequest, resource: Json) -> Reply:
        """Create, or update (R4 http.html#create, #update)."""
        kind = request.path[0]
        if kind not in READ and kind in SEARCHES:
            raise _not_allowed(request)
        condition = request.headers.get("if-none-exist", "")
        entry = Entry(
            method="POST" if request.method == "POST" else "PUT",
            path=request.path,
            query=request.query,
            resource=resource,
            if_none_exist=condition_of(condition, "If-None-Exist"),
        )
        return _single_reply(request, self._acceptance.single(entry, request.body))

    def _patched(self, request: FhirRequest, task_id: str) -> Json:
        """The Task after a JSON Patch (RFC 6902)."""
        return {**self._reader.read("Task", task_id), **cancelling_task(request.body)}

    def _bundle(self, request: FhirRequest, bundle: Json) -> Reply:
        if bundle.get("resourceType") != "Bundle":
            text = "only a Bundle is posted to the root; a resource is posted to its type"
            raise malformed(text, "resourceType")
        entries = entries_of(bundle, self._config.maximum_entries)
        whole = bundle["type"] == TRANSACTION
        ordered = sorted(entries, key=lambda entry: _ORDER[entry.method]) if whole else entries
        take = self._acceptance.transaction if whole else self._acceptance.batch
        done = dict(zip(map(id, ordered), take(ordered, request.body), strict=True))
        answers = [
            self._entry_answer(request, entry, done[id(entry)], whole=whole) for entry in entries
        ]
        told: Json = {"resourceType": "Bundle", "type": f"{bundle['type']}-response"}
        return Reply(HTTPStatus.OK, told | ({"entry": answers} if answers else {}))

    def _entry_answer(
        self, request: FhirRequest, entry: Entry, done: Done | None, *, whole: bool
    ) -> Json:
        if done is None:
            done = self._entry_read(request, entry, whole=whole)
        told: Json = {"status": _status_line(done.status)}
        resource = done.resource
        if resource is not None and "meta" in resource:
            meta = resource["meta"]
            told["etag"] = f'W/"{meta["versionId"]}"'
            told["lastModified"] = meta.get("lastUpdated", "")
            if not done.is_read:
                told["location"] = _location(resource)
        if done.outcome is not None:
            told["outcome"] = done.outcome
        response = {"response": {name: value for name, value in told.items() if value}}
        wanted = done.is_read or request.preference("return") == "representation"
        return ({"resource": resource} if wanted and resource is not None else {}) | response

    def _entry_read(self, request: FhirRequest, entry: Entry, *, whole: bool) -> Done:
        headers: Mapping[str, str] = {"prefer": request.headers.get("prefer", "")}
        inner = replace(
            request, method="GET", path=entry.path, query=entry.query, headers=headers, body=b""
        )
        try:
            reply = self.answer(inner)
        except CaidxError as error:
            refused = refusal_of(error)
            if whole:
                raise refused from error
            outcome = operation_outcome(refused.issues)
            return Done(status=refused.status, outcome=outcome, refused=refused)
        return Done(status=reply.status, resource=reply.resource, is_read=True)


def _single_reply(request: FhirRequest, done: Done) -> Reply:
    resource = done.resource
    if resource is None:
        return Reply(done.status, done.outcome)
    headers = _version_headers(resource["meta"])
    headers["Location"] = f"{request.base_url}/{_location(resource)}"
    match request.preference("return"):
        case "minimal":
            return Reply(done.status, None, headers)
        case "OperationOutcome":
            text = "it is on record" if done.status == HTTPStatus.CREATED else "it was on record"
            return Reply(done.status, information(text), headers)
        case _:
            return Reply(done.status, resource, headers)


def _version_headers(meta: Mapping[str, str]) -> dict[str, str]:
    headers = {"ETag": f'W/"{meta["versionId"]}"'}
    if "lastUpdated" in meta:
        moment = datetime.fromisoformat(meta["lastUpdated"])
        headers["Last-Modified"] = format_datetime(moment, usegmt=True)
    return headers


def _location(resource: Json) -> str:
    version_id = resource["meta"]["versionId"]
    return f"{resource['resourceType']}/{resource['id']}/{_HISTORY}/{version_id}"


def _status_line(status: int) -> str:
    return f"{int(status)} {HTTPStatus(status).phrase}"


def _form(request: FhirRequest) -> tuple[tuple[str, str], ...]:
    return query_of(request.body.decode("latin-1"), "")


def _check_readable(kind: str) -> None:
    if kind not in SEARCHES:
        raise _not_found("the hub has no resources of such a type")


def _not_found(text: str) -> Refused:
    return Refused(HTTPStatus.NOT_FOUND, Issue("not-found", text))


def _not_allowed(request: FhirRequest) -> Refused:
    kind = request.path[0] if request.path else ""
    allowed = ["GET", "HEAD"] if kind in SEARCHES or kind == _METADATA else []
    if not request.path or (kind in READ and len(request.path) == 1):
        allowed.append("POST")
    # an Observation is updated by its identifier alone
    if kind in READ and not (kind == "Observation" and len(request.path) > 1):
        allowed.append("PUT")
    if kind == "Task" and len(request.path) > 1:
        allowed.append("PATCH")
    issue = Issue("not-supported", "the resource has no such interaction")
    headers = {"Allow": ", ".join(allowed)}
    return Refused(HTTPStatus.METHOD_NOT_ALLOWED, issue, headers=headers)
