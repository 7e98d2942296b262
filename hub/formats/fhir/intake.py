"""A FHIR R4 message and what its references lead to (R4 bundle.html#references).

A message is a Bundle of type ``transaction`` or ``batch``, or a single resource. Nothing is
fetched: a reference leads to an entry, to a contained resource, or is a logical one, by an
identifier; any other leads nowhere, and whoever needs it says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from hub.domain.identity import PatientIdentity
from hub.errors import RejectedError
from hub.formats.fhir.outcome import Issue, Refused, malformed, unprocessable
from hub.formats.fhir.patient import identities_in

Json = dict[str, Any]
Query = tuple[tuple[str, str], ...]

TRANSACTION, BATCH = "transaction", "batch"

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"))
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_VERSION = re.compile(r"/_history/[^/]*\Z")
_MOST_PARAMETERS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One interaction: a request of its own, or an entry of a Bundle."""

    method: str
    path: tuple[str, ...]
    """Below the service's root: ``("Task",)``, ``("Task", "<id>")``."""
    query: Query = ()
    resource: Json = field(default_factory=dict)
    full_url: str = ""
    if_none_exist: Query | None = None
    """The search of a conditional create (R4 http, "Conditional create")."""
    where: str = ""
    """FHIRPath of the entry; empty: it is no part of a Bundle."""

    @property
    def resource_type(self) -> str:
        return self.path[0] if self.path else ""

    @property
    def resource_id(self) -> str:
        return self.path[1] if len(self.path) > 1 else ""

    @property
    def place(self) -> str:
        """FHIRPath of its resource."""
        return f"{self.where}.resource" if self.where else self.resource_type


def entries_of(bundle: Json, most: int) -> tuple[Entry, ...]:
    """The entries of a transaction or batch, in their order.

    Raises:
        Refused: it is none, or an entry has no request that can be read; all of them are named.
    """
    if bundle.get("type") not in (TRANSACTION, BATCH):
        raise malformed("Bundle.type must be transaction or batch", "Bundle.type", "not-supported")
    listed = bundle.get("entry", [])
    if not isinstance(listed, list):
        raise malformed("Bundle.entry is no list", "Bundle.entry")
    if len(listed) > most:
        issue = Issue("too-long", f"a Bundle may have at most {most} entries", "Bundle.entry")
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, issue)
    found: list[Entry] = []
    issues: list[Issue] = []
    for number, entry in enumerate(listed):
        try:
            found.append(_entry(entry, f"Bundle.entry[{number}]"))
        except Refused as refused:
            issues += refused.issues
    if issues:
        raise Refused(HTTPStatus.BAD_REQUEST, *issues)
    return tuple(found)


def _entry(entry: object, where: str) -> Entry:
    request = entry.get("request") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(request, dict):
        raise malformed("an entry has no request", f"{where}.request", "required")
    method, url = request.get("method"), request.get("url")
    if not isinstance(method, str) or method not in _METHODS or not isinstance(url, str):
        raise malformed("a request has no method or no url", f"{where}.request", "required")
    resource, full_url = entry.get("resource", {}), entry.get("fullUrl", "")
    condition = request.get("ifNoneExist", "")
    if not isinstance(resource, dict) or not isinstance(full_url, str):
        raise malformed("an entry's resource or fullUrl is none", f"{where}.resource")
    if not isinstance(condition, str):
        raise malformed("ifNoneExist is no text", f"{where}.request.ifNoneExist")
    path, _, query = url.partition("?")
    return Entry(
        method=method,
        path=tuple(piece for piece in path.split("/") if piece),
        query=query_of(query, f"{where}.request.url"),
        resource=resource,
        full_url=full_url,
        if_none_exist=condition_of(condition, f"{where}.request.ifNoneExist"),
        where=where,
    )


def condition_of(text: str, where: str) -> Query | None:
    """The search of ``If-None-Exist``; None where there is no such condition."""
    return query_of(text.partition("?")[2] or text, where) if text else None


def query_of(text: str, where: str) -> Query:
    """A query, decoded.

    Raises:
        Refused: it has too many parameters.
    """
    try:
        return tuple(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS))
    except ValueError:
        raise malformed("a query has too many parameters", where, "too-costly") from None


# --- references --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Located:
    """A resource of the message, and where it stands."""

    resource: Json
    full_url: str
    place: str
    """FHIRPath, for messages."""
    root: Json | None = None
    """The resource that contains it."""

    @property
    def kind(self) -> str:
        return str(self.resource.get("resourceType", ""))


class Message:
    """The resources of a message by what others refer to them by.

    Raises:
        Refused: two entries claim the same ``fullUrl``.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._by_url: dict[str, Located] = {}
        self._by_name: dict[str, list[Located]] = {}
        for entry in entries:
            if not entry.resource:
                continue
            located = Located(entry.resource, entry.full_url, entry.place)
            if entry.full_url and entry.full_url in self._by_url:
                raise malformed("two entries have the same fullUrl", f"{entry.where}.fullUrl")
            if entry.full_url:
                self._by_url[entry.full_url] = located
            if entry.resource.get("id"):
                name = f"{located.kind}/{entry.resource['id']}"
                self._by_name.setdefault(name, []).append(located)

    def lead(self, reference: Json, at: Located) -> Located | None:
        """What a reference in ``at`` leads to within the message; None: nothing in it.

        Raises:
            Refused: it can only lead to a part of the message, and there is none.
        """
        text = reference.get("reference")
        if not isinstance(text, str) or not text:
            return None
        if text.startswith("#"):
            return _contained(text[1:], at)
        text = _VERSION.sub("", text)
        if text.startswith("urn:"):
            if text not in self._by_url:
                raise unprocessable("a reference leads to no entry", at.place, "not-found")
            return self._by_url[text]
        if "://" in text:
            return self._by_url.get(text)
        return self._relative(text, at)

    def _relative(self, text: str, at: Located) -> Located | None:
        if at.full_url.startswith(("http://", "https://")):
            base = at.full_url.rsplit("/", 2)[0]
            if f"{base}/{text}" in self._by_url:
                return self._by_url[f"{base}/{text}"]
        found = self._by_name.get(text, [])
        if len(found) > 1:
            raise unprocessable(
                "a reference leads to several entries", at.place, "multiple-matches"
            )
        return found[0] if found else None


def _contained(name: str, at: Located) -> Located:
    root = at.root or at.resource
    if not name:
        return Located(root, at.full_url, at.place)
    listed = root.get("contained", [])
    for inner in listed if isinstance(listed, list) else []:
        if isinstance(inner, dict) and inner.get("id") == name:
            return Located(inner, at.full_url, at.place, root)
    raise unprocessable("a reference leads to nothing that is contained", at.place, "not-found")


def identifier_in(reference: Json) -> Json | None:
    """The identifier of a logical reference, or of a conditional one (``Patient?identifier=``)."""
    identifier = reference.get("identifier")
    if isinstance(identifier, dict):
        return identifier
    query = urlsplit(str(reference.get("reference", ""))).query
    values = [value for name, value in query_of(query, "") if name == "identifier"]
    if len(values) != 1:
        return None
    system, bar, value = values[0].rpartition("|")
    return {"system": system, "value": value} if bar else {"value": value}


def type_in(reference: Json) -> str:
    """The type that a reference names, as far as it tells."""
    text = _VERSION.sub("", str(reference.get("reference", ""))).partition("?")
    pieces = text[0].split("/")
    named = pieces[-2] if len(pieces) > 1 and not text[1] else pieces[0]
    if _TYPE.fullmatch(named):
        return named
    return str(reference.get("type", ""))


# --- patients ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subject:
    """Whoever an element refers to as the patient."""

    identities: tuple[PatientIdentity, ...]
    """One for each identifier that images know; empty where there is only a reference."""
    reference: str = ""
    """As it was written."""

    def is_same(self, other: Subject) -> bool:
        """They share an identifier, or the very reference."""
        keys = {one.key for one in self.identities} & {one.key for one in other.identities}
        return bool(keys) or (bool(self.reference) and self.reference == other.reference)


@dataclass(frozen=True, slots=True)
class Patients:
    """Finds out whom a message is about."""

    message: Message
    issuers: Mapping[str, str]
    """System of an identifier -> Issuer of Patient ID as in the images; under the empty system
    that of identifiers that name none, if these are taken."""

    def of(self, reference: object, at: Located, name: str) -> Subject:
        """Whom ``at``'s element ``name`` refers to.

        Raises:
            Refused: to no Patient; one of no known identifiers is returned without any.
        """
        place = f"{at.place}.{name}"
        if not isinstance(reference, dict):
            raise unprocessable(f"{name} is missing: whose is it?", place, "required")
        written, located = str(reference.get("reference", "")), self.message.lead(reference, at)
        kind = located.kind if located else type_in(reference)
        if kind not in ("", "Patient"):
            raise unprocessable(f"{name} leads to a {_plain(kind)}, not to a Patient", place)
        named = identifier_in(reference)
        if located is None:
            found = self._identities({"identifier": [named]}, place) if named else ()
            return Subject(found, "" if written.startswith("#") else written)
        found = self._identities(located.resource, place)
        if named and not Subject(self._identities({"identifier": [named]}, place)).is_same(
            Subject(found)
        ):
            text = f"{name}.identifier is none of the Patient that the reference leads to"
            raise unprocessable(text, place)
        return Subject(found, written)

    def known(self, reference: object, at: Located, name: str) -> PatientIdentity:
        """The patient in terms of the images.

        Raises:
            Refused: it cannot be told.
        """
        subject = self.of(reference, at, name)
        if subject.identities:
            return subject.identities[0]
        text = f"{name} leads nowhere: send the Patient with it, or put an identifier beside it"
        raise unprocessable(text, f"{at.place}.{name}", "not-found")

    def _identities(self, patient: Json, place: str) -> tuple[PatientIdentity, ...]:
        try:
            return identities_in(patient, self.issuers)
        except RejectedError as error:
            text = f"{error}; `site.identifier_systems` says which systems these are"
            raise unprocessable(text, place, "value") from None


def _plain(kind: str) -> str:
    return kind if _TYPE.fullmatch(kind) else "resource of another type"
