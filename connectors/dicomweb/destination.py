"""A DICOMweb server as a destination: one document, one STOW-RS request (PS3.18 10.5)."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from connectors.dicomweb.archive_answers import text_of
from connectors.dicomweb.destination_config import DicomWebDestinationConfig
from connectors.dicomweb.multipart import MultipartWriter
from connectors.dicomweb.store_result import is_stored
from hub.domain.delivery import Document, Receipt
from hub.errors import RejectedError, TransientError
from hub.formats.dicom.header import HeaderScan
from hub.formats.dicom_objects.last_look import checked_header
from hub.formats.http_answers import is_passing, is_taken
from hub.ports import DestinationContext
from hub.transport.http_peer import HttpAnswer, HttpPeer

_DICOM = "application/dicom"
_DICOM_JSON = "application/dicom+json"
_SOP_INSTANCE_UID = 0x00080018
_ABSENT = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_NOT_THERE = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})


class DicomWebDestination:
    """`hub.ports.Destination` and `hub.ports.Confirming` over HTTP. Thread-safe.

    STOW-RS has no idempotency key of its own: a document's SOP Instance UID never changes, so a
    server keeps it once however often it arrives.
    """

    def __init__(self, config: DicomWebDestinationConfig, context: DestinationContext) -> None:
        self._config = config
        self._name = context.name
        self._clock = context.clock
        self._peer = HttpPeer(
            context.name,
            config,
            context.clock,
            timeout=config.timeout,
            headers={"Accept": _DICOM_JSON},
        )

    def deliver(self, document: Document, idempotency_key: str) -> Receipt:  # noqa: ARG002 - see above
        """Store one document; returns when the server says that this instance is stored.

        Raises:
            TransientError: no answer, a garbled answer, or one that says "later".
            RejectedError: not for this server, or it will never take it.
        """
        if document.kind not in self._config.documents:
            raise RejectedError(f"{self._name} is not configured for {document.kind} documents")
        scan = checked_header(document)
        writer = MultipartWriter(_DICOM)
        # No parameter: the file names its own transfer syntax, and Orthanc refuses one.
        head = writer.head(_DICOM, len(document.content))
        answer = self._peer.exchange(
            "POST",
            f"{self._config.url}/studies/{_segment(scan.study_instance_uid)}",
            content=b"".join((head, document.content, b"\r\n", writer.end())),
            headers={"Content-Type": writer.media_type},
        )
        detail = self._stored(answer, scan.sop_instance_uid)
        if self._config.confirm == "none":
            return Receipt(detail)
        return Receipt(detail, f"{self._config.confirm} {self._clock.now().isoformat()}")

    def _stored(self, answer: HttpAnswer, sop_instance_uid: str) -> str:
        """What the server says about this instance, whatever it says about the request.

        The status of the request does not tell it: 202 and 409 stand for several things, and
        some servers answer 200 to an instance that they refuse.
        """
        status, body = answer.status, answer.json
        if is_passing(status):
            raise TransientError(f"{self._name}: HTTP {status}", retry_after=answer.retry_after)
        if not is_taken(status) and status != HTTPStatus.CONFLICT:
            raise RejectedError(f"{self._name}: HTTP {status}")
        warning = is_stored(body, sop_instance_uid, f"{self._name}: HTTP {status}")
        if warning is not None:
            return f"STOW-RS HTTP {status}{warning}"
        if status == HTTPStatus.CONFLICT:
            raise RejectedError(f"{self._name}: HTTP {status}")
        raise TransientError(f"{self._name}: the answer does not name the instance")

    # --- confirmation ------------------------------------------------------------------------

    def confirm(self, document: Document, awaiting: str) -> Receipt:
        """Ask whether the server shows a document (see hub.ports.Confirming)."""
        how, _, sent_at = awaiting.partition(" ")
        scan = checked_header(document)
        if self._shows(scan, how):
            return Receipt(f"found by {'QIDO-RS' if how == 'query' else 'WADO-RS'}")
        age = self._clock.now() - datetime.fromisoformat(sent_at)
        if age.total_seconds() <= self._config.confirm_within:
            raise TransientError(f"{self._name} does not show the object yet")
        raise RejectedError(f"{self._name} does not have the object")

    def _shows(self, scan: HeaderScan, how: str) -> bool:
        study, series = _segment(scan.study_instance_uid), _segment(scan.series_instance_uid)
        instances = f"{self._config.url}/studies/{study}/series/{series}/instances"
        if how == "query":
            # no limit: a server that ignores the key answers with other instances first
            asked = {"SOPInstanceUID": scan.sop_instance_uid, "includefield": "00080018"}
            found = self._objects(instances, asked)
        else:
            found = self._objects(f"{instances}/{_segment(scan.sop_instance_uid)}/metadata", {})
        return any(text_of(one, _SOP_INSTANCE_UID) == scan.sop_instance_uid for one in found)

    def _objects(self, url: str, asked: dict[str, str]) -> list[dict[str, Any]]:
        """Raises:
        TransientError: it does not answer, or refuses: that says nothing about the object.
        """
        answer = self._peer.exchange("GET", url, parameters=asked)
        if answer.status in _ABSENT:
            return []
        found = answer.json
        if answer.status != HTTPStatus.OK or not isinstance(found, list):
            raise TransientError(
                f"{self._name}: HTTP {answer.status} when asked for the object",
                retry_after=answer.retry_after,
            )
        return [one for one in found if isinstance(one, dict)]

    # --- the rest ----------------------------------------------------------------------------

    def check(self) -> str:
        """Search for one study; a server without QIDO-RS may say that it has none.

        Raises:
            TransientError: no server, or none that lets us in.
        """
        answer = self._peer.exchange(
            "GET", f"{self._config.url}/studies", parameters={"limit": "1"}
        )
        if is_passing(answer.status) or answer.status in _NOT_THERE:
            raise TransientError(f"{self._name}: HTTP {answer.status} for studies")
        if is_taken(answer.status):
            return "answers QIDO-RS"
        return f"answers, without QIDO-RS (HTTP {answer.status})"

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._peer.close()


_segment = partial(quote, safe="")
"""A UID as a path segment; one that is none cannot leave it."""


def build_destination(
    config: DicomWebDestinationConfig, context: DestinationContext
) -> DicomWebDestination:
    """Raises:
    ConfigError: the file of certification authorities cannot be used.
    """
    return DicomWebDestination(config, context)
