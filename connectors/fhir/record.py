"""A FHIR server as a health record: a patient's measured values (R4 Observation), asked when an
order needs them.

Only what is certainly the patient's is taken: the patient is found by the system and the value of
one identifier, exactly one may match, and each value's ``subject`` must be that one. Everything
else stops the question; an error is never read as "no value".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from connectors.fhir.record_config import FhirRecordConfig
from connectors.fhir.server import FhirServer
from connectors.fhir.status import error_of
from hub.domain.coding import Code
from hub.domain.identity import PatientIdentity
from hub.domain.observation import Observation
from hub.errors import RejectedError, TransientError
from hub.formats.fhir.observation import observation_of
from hub.formats.http_answers import is_taken
from hub.ports import RecordContext

Json = Mapping[str, Any]

_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
"""R4 datatypes.html#id."""
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)")
_PORTS = {"http": 80, "https": 443}
_SEXES = {"male": "M", "female": "F", "other": "O"}
"""R4 administrative-gender -> Patient's Sex (0010,0040)."""


class FhirRecord:
    """`hub.ports.HealthRecord` over R4 search (R4 search.html). Thread-safe."""

    def __init__(self, config: FhirRecordConfig, context: RecordContext) -> None:
        self._config = config
        self._name = context.name
        self._systems = {**context.identifier_systems, **config.identifier_systems}
        self._server = FhirServer(context.name, config, context.clock)

    # --- the patient -------------------------------------------------------------------------

    def patient(self, patient: PatientIdentity) -> PatientIdentity:
        """As hub.ports.HealthRecord. The name is left as it is: it is for those who know it."""
        found = self._patient(patient)
        born = _DATE.fullmatch(str(found.get("birthDate", "")))
        return PatientIdentity(
            patient.patient_id,
            patient.issuer_of_patient_id,
            patient.patient_name,
            "".join(born.groups()) if born else "",
            _SEXES.get(str(found.get("gender", "")), ""),
        )

    def _patient(self, patient: PatientIdentity) -> Json:
        """The one Patient resource with this identifier.

        Raises:
            RejectedError: there is none, or several; or nobody knows the identifier's system.
        """
        system = self._systems.get(patient.issuer_of_patient_id)
        if not system:
            raise RejectedError(
                "the URI of the patient identifier's system is not known:"
                " `site.identifier_systems` names it for each issuer"
            )
        value = _escaped(patient.patient_id)
        asked = {"identifier": f"{_escaped(system)}|{value}", "_count": "2"}
        found = [
            one
            for one in self._search("Patient", asked)
            if _has_identifier(one, system, patient.patient_id)
        ]
        if not found:
            raise RejectedError("it knows no patient with this identifier")
        if len(found) > 1:
            raise RejectedError("several of its patients have this identifier")
        if found[0].get("active") is False or _is_replaced(found[0]):
            raise RejectedError("the patient with this identifier is not active there any more")
        return found[0]

    # --- the values --------------------------------------------------------------------------

    def observations(
        self, patient: PatientIdentity, codes: Sequence[Code], not_before: datetime | None
    ) -> Sequence[Observation]:
        """As hub.ports.HealthRecord."""
        if not codes:
            return ()
        patient_id = _id_of(self._patient(patient))
        asked = {
            "patient": patient_id,
            "code": ",".join(
                f"{_escaped(code.system)}|{_escaped(code.code_value)}" for code in codes
            ),
            "_sort": "-date",
            "_count": str(self._config.page_size),
        }
        if not_before is not None:
            asked["date"] = f"ge{not_before:%Y-%m-%dT%H:%M:%SZ}"
        found = (
            self._value(one, patient_id, patient) for one in self._search("Observation", asked)
        )
        return tuple(value for value in found if value.has(tuple(codes)))

    def _value(self, resource: Json, patient_id: str, patient: PatientIdentity) -> Observation:
        """One Observation, whose subject is the patient.

        Raises:
            RejectedError: it is not, or cannot be read.
        """
        subject = resource.get("subject")
        reference = str(subject.get("reference", "")) if isinstance(subject, dict) else ""
        if reference not in (f"Patient/{patient_id}", f"{self._config.url}/Patient/{patient_id}"):
            raise RejectedError("it answered with a value of another patient")
        return observation_of(
            resource,
            patient=patient,
            reference=f"{self._config.url}/Observation/{_id_of(resource)}",
            source=self._name,
        )

    # --- searching ---------------------------------------------------------------------------

    def _search(self, resource_type: str, asked: Mapping[str, str]) -> Iterator[Json]:
        """Every match, over all pages (R4 http.html#paging).

        Raises:
            TransientError: the server cannot be asked now, refuses, or answers no searchset.
            RejectedError: it leads elsewhere, or answers with too much.
        """
        url = f"{self._config.url}/{resource_type}?{urlencode(asked)}"
        seen: set[str] = set()
        number = 0
        while url:
            if url in seen:
                raise TransientError("its pages lead in a circle")
            if len(seen) > self._config.most_values:  # pages may be empty, and never end
                raise RejectedError(f"it answers with more than {len(seen) - 1} pages")
            seen.add(url)
            bundle = self._bundle(url)
            for resource in _matches(bundle, resource_type):
                number += 1
                if number > self._config.most_values:
                    raise RejectedError(f"it answers with more than {number - 1} resources")
                yield resource
            url = self._next(url, bundle)
            total = bundle.get("total")
            if not url and isinstance(total, int) and total > number:
                raise RejectedError(
                    f"it gives {number} of {total} resources and no further page; a larger"
                    " `page_size` may help"
                )

    def _bundle(self, url: str) -> Json:
        """A refusal is no fault of whoever orders: it waits for people who mend it."""
        try:
            answer = self._server.exchange("GET", url)
            if not is_taken(answer.status):
                raise error_of(answer.status, answer.json, answer.retry_after)
        except RejectedError as error:
            raise TransientError(str(error)) from error
        found = answer.json
        if not isinstance(found, dict) or found.get("resourceType") != "Bundle":
            raise TransientError("the answer is no Bundle")
        if found.get("type") != "searchset":
            raise TransientError("the answer is no searchset")
        return found

    def _next(self, url: str, bundle: Json) -> str:
        """URL of the next page, which is on the same server; empty: there is none."""
        links = bundle.get("link", [])
        for link in links if isinstance(links, list) else []:
            if isinstance(link, dict) and link.get("relation") == "next":
                following = urljoin(url, str(link.get("url", "")))
                if _origin(following) != _origin(self._config.url):
                    raise RejectedError("its next page is on another server")
                return following
        return ""

    # --- the rest ----------------------------------------------------------------------------

    def check(self) -> str:
        """As `FhirServer.check`."""
        return self._server.check()

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._server.close()


def build_record(config: FhirRecordConfig, context: RecordContext) -> FhirRecord:
    """`hub.ports.Connector.build_record`.

    Raises:
        ConfigError: the file of certification authorities, or the key for SMART, cannot be used.
    """
    return FhirRecord(config, context)


def _matches(bundle: Json, resource_type: str) -> Iterator[Json]:
    """What was searched for (R4 search-entry-mode ``match``, or none said).

    Raises:
        TransientError: an entry holds nothing.
        RejectedError: the server says that the search went wrong.
    """
    entries = bundle.get("entry", [])
    for entry in entries if isinstance(entries, list) else []:
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(resource, dict):
            raise TransientError("an entry of the answer holds no resource")
        search = entry.get("search")
        mode = search.get("mode", "match") if isinstance(search, dict) else "match"
        kind = resource.get("resourceType")
        if kind == "OperationOutcome" and _is_error(resource):
            raise RejectedError("it says that the search went wrong")
        if mode == "match" and kind == resource_type:
            yield resource


def _is_error(outcome: Json) -> bool:
    issues = outcome.get("issue", [])
    severities = [one.get("severity") for one in issues if isinstance(one, dict)]
    return any(severity in ("error", "fatal") for severity in severities)


def _has_identifier(patient: Json, system: str, value: str) -> bool:
    """Whether the server meant what it was asked: some ignore parameters."""
    identifiers = patient.get("identifier", [])
    return any(
        isinstance(one, dict) and (one.get("system"), one.get("value")) == (system, value)
        for one in (identifiers if isinstance(identifiers, list) else [])
    )


def _is_replaced(patient: Json) -> bool:
    links = patient.get("link", [])
    return any(
        isinstance(link, dict) and link.get("type") == "replaced-by"
        for link in (links if isinstance(links, list) else [])
    )


def _id_of(resource: Json) -> str:
    found = str(resource.get("id", ""))
    if not _ID.fullmatch(found):
        raise RejectedError("it answered with a resource without an id")
    return found


def _escaped(text: str) -> str:
    """R4 search.html#escaping."""
    return re.sub(r"([\\$,|])", r"\\\1", text)


def _origin(url: str) -> tuple[str, str, int | None]:
    """RFC 6454 section 4."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    return (parts.scheme, parts.hostname or "", port or _PORTS.get(parts.scheme))
