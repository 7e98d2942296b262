"""A Storage SCP: C-STORE and C-ECHO (PS3.4 annexes A and B).

The data set is handed on as it came, undecoded. The response is sent when the hub's intake
has stored the object durably, and not before.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import build_context, evt, register_uid
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined, unused-ignore]

from connectors.dicom.config import DicomSourceConfig
from connectors.dicom.network import AT_ONCE, TRANSFER_SYNTAXES, application_entity
from connectors.dicom.status import SUCCESS, error_comment, status_of
from hub.errors import CaidxError, ConfigError, ConfigProblem, TransientError
from hub.ports import (
    EndOfTransfer,
    Health,
    HealthState,
    ReceivedObject,
    Reception,
    Sender,
    SourceContext,
)

log = structlog.get_logger(__name__)

_CANNOT_EVER_LISTEN = frozenset({errno.EACCES, errno.EADDRNOTAVAIL})


class DicomSource:
    """`hub.ports.Source` for DICOM associations."""

    def __init__(self, config: DicomSourceConfig, context: SourceContext) -> None:
        self._config = config
        self._context = context
        self._contexts = _storage_contexts(config)
        self._sessions: dict[Any, _Session] = {}
        self._lock = threading.Lock()
        self._server: Any = None
        self._health = Health(HealthState.STOPPED, "not started", context.clock.now())

    def start(self) -> None:
        """Listen (see hub.ports.Source)."""
        config = self._config
        ae = application_entity(config.ae_title, config.maximum_pdu_length)
        ae.maximum_associations = config.maximum_associations
        ae.require_calling_aet = list(config.allowed_calling_ae_titles)
        ae.require_called_aet = config.require_called_ae_title
        ae.network_timeout = config.idle_timeout
        ae.acse_timeout = config.request_timeout
        ae.add_supported_context(Verification)
        handlers = [
            AT_ONCE,
            (evt.EVT_CONN_CLOSE, _stop_waiting),
            (evt.EVT_REQUESTED, self._offer_contexts),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_RELEASED, self._released),
        ]
        try:
            self._server = ae.start_server(
                (config.host, config.port), block=False, evt_handlers=handlers
            )
        except OSError as error:
            raise self._cannot_listen(error) from error
        self._set_health(HealthState.HEALTHY, f"listening on {config.host}:{config.port}")

    def stop(self) -> None:
        """Stop accepting, give associations ``stop_grace`` seconds, then abort them."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        deadline = time.monotonic() + self._config.stop_grace
        while server.active_associations and time.monotonic() < deadline:
            time.sleep(0.02)
        for association in server.active_associations:
            association.abort()
        self._set_health(HealthState.STOPPED, "stopped")

    def health(self) -> Health:
        return self._health

    def _set_health(self, state: HealthState, detail: str) -> None:
        self._health = Health(state, detail, self._context.clock.now())

    def _cannot_listen(self, error: OSError) -> CaidxError:
        address = f"{self._config.host}:{self._config.port}"
        message = f"cannot listen on {address}: {error.strerror}"
        self._set_health(HealthState.FAILED, message)
        if error.errno in _CANNOT_EVER_LISTEN or isinstance(error, socket.gaierror):
            field = f"sources.{self._context.name}"
            return ConfigError((ConfigProblem("configuration", 0, field, message),))
        return TransientError(message)

    # --- called by pynetdicom, on the association's own thread ---

    def _offer_contexts(self, event: Any) -> None:
        """Offer what this sender asks about, instead of copying 170 contexts per association."""
        asked = {str(item.abstract_syntax) for item in event.assoc.requestor.requested_contexts}
        for uid in sorted(asked - self._contexts.keys() - {str(Verification)}):
            calling = str(event.assoc.requestor.primitive.calling_ae_title).strip()
            log.warning("dicom.context.refused", sop_class_uid=uid, calling_ae_title=calling)
        acceptor = event.assoc.acceptor
        offered = [self._contexts[uid] for uid in sorted(asked & self._contexts.keys())]
        acceptor.supported_contexts = [*acceptor.supported_contexts, *offered]

    def _store(self, event: Any) -> int | Dataset:
        request = event.request
        received = ReceivedObject(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            data_set=request.DataSet.getvalue() if request.DataSet else b"",
        )
        try:
            self._session(event.assoc).store(received)
        except CaidxError as error:
            status = status_of(error, received)
            log.warning("dicom.store.refused", status=f"0x{status:04X}", reason=str(error))
            answer = Dataset()
            answer.Status = status
            answer.ErrorComment = error_comment(error)
            return answer
        return SUCCESS

    def _session(self, association: Any) -> _Session:
        with self._lock:
            session = self._sessions.get(association)
            if session is None:
                session = _Session(lambda: self._context.intake.open(self._sender(association)))
                self._sessions[association] = session
                # However an association breaks (abort, lost connection, time-out, a fault
                # inside pynetdicom), the one sure sign is that its thread ends.
                threading.Thread(
                    target=self._watch, args=(association,), name="dicom-watch", daemon=True
                ).start()
        return session

    def _sender(self, association: Any) -> Sender:
        requestor = association.requestor
        return Sender(
            source=self._context.name,
            calling_ae_title=str(requestor.ae_title).strip(),
            called_ae_title=str(requestor.primitive.called_ae_title).strip(),
            address=str(requestor.address),
        )

    def _watch(self, association: Any) -> None:
        association.join()
        self._end(association, EndOfTransfer.ABORTED)

    def _released(self, event: Any) -> None:
        self._end(event.assoc, EndOfTransfer.RELEASED)

    def _end(self, association: Any, end: EndOfTransfer) -> None:
        with self._lock:
            session = self._sessions.pop(association, None)
        if session is None:
            return
        try:
            session.close(end)
        except CaidxError as error:
            log.error("dicom.close.failed", reason=str(error))  # noqa: TRY400 - told, not traced


def _stop_waiting(event: Any) -> None:
    """Let go of a connection that closed before it asked for an association.

    pynetdicom would count it as an association until the request times out: the port checks of
    a load balancer alone would reach ``maximum_associations``.
    """
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)


class _Session:
    """One association: a reception that is opened by the first object and closed once."""

    def __init__(self, open_reception: Callable[[], Reception]) -> None:
        self._open = open_reception
        self._reception: Reception | None = None
        self._closed = False
        self._lock = threading.Lock()

    def store(self, received: ReceivedObject) -> None:
        with self._lock:
            if self._closed:
                raise TransientError("the association has ended")
            if self._reception is None:
                self._reception = self._open()
            self._reception.store(received)

    def close(self, end: EndOfTransfer) -> None:
        with self._lock:
            reception, self._closed = self._reception, True
            self._reception = None
        if reception is not None:
            reception.close(end)


def _storage_contexts(config: DicomSourceConfig) -> dict[str, Any]:
    """What we accept: SOP class -> its context with every transfer syntax."""
    known = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
    for uid in set(config.additional_sop_classes) - set(known):
        register_uid(uid, f"PrivateStorage_{uid.replace('.', '_')}", StorageServiceClass)
    chosen = config.storage_sop_classes or known
    unknown = set(chosen) - set(known) - set(config.additional_sop_classes)
    if unknown:
        raise ConfigError(
            tuple(
                ConfigProblem(
                    "configuration",
                    0,
                    "storage_sop_classes",
                    f"{uid} is no Storage SOP class of the standard; "
                    "private ones belong into additional_sop_classes",
                )
                for uid in sorted(unknown)
            )
        )
    transfer_syntaxes = list(TRANSFER_SYNTAXES)
    return {
        uid: build_context(uid, transfer_syntaxes)
        for uid in (*chosen, *config.additional_sop_classes)
    }


def build_source(config: DicomSourceConfig, context: SourceContext) -> DicomSource:
    """`hub.ports.Connector.build_source`."""
    return DicomSource(config, context)
