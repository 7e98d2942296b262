"""A RIS or an interface engine as a destination: one document, one message, one acknowledgement.

The connection stays open for the next message. On one connection there is one message at a time
(2.9.2, original acknowledgement mode): the next one waits for the answer. A document's control ID
never changes, so a receiver can tell one that it gets again.
"""

from __future__ import annotations

import threading
import time

from connectors.hl7v2.client import MllpConnection, connect
from connectors.hl7v2.config import Hl7v2DestinationConfig
from connectors.hl7v2.status import confirmation
from hub.domain.delivery import Document, DocumentKind, Receipt
from hub.errors import RejectedError, TransientError
from hub.formats.hl7v2.message import Message, read_message, with_header
from hub.ports import DestinationContext
from hub.transport.tls import client_context

_STUDY = "113014"


class Hl7v2Destination:
    """`hub.ports.Destination` for MLLP. Thread-safe.

    Raises:
        ConfigError: a file of ``tls`` cannot be used.
    """

    def __init__(self, config: Hl7v2DestinationConfig, context: DestinationContext) -> None:
        self._config = config
        self._peer = f"{config.host}:{config.port}"
        self._tls = None
        if config.tls is not None:
            self._tls = client_context(config.tls, f"destinations.{context.name}.tls")
        self._lock = threading.Lock()
        self._connection: MllpConnection | None = None
        self._used_at = 0.0

    def deliver(self, document: Document, idempotency_key: str) -> Receipt:  # noqa: ARG002 - MSH-10 is the key
        """Send one message; returns when the receiver has acknowledged it.

        Raises:
            TransientError: no connection, no acknowledgement of this message, or one that says
                "later".
            RejectedError: not an ORU, or the receiver will never take it.
        """
        control_id = _checked(document).control_id
        config = self._config
        header = {
            3: config.sending_application,
            4: config.sending_facility,
            5: config.receiving_application,
            6: config.receiving_facility,
            11: config.processing_id,
        }
        content = with_header(document.content, header)
        if not self._lock.acquire(timeout=config.response_timeout):
            raise TransientError(f"{self._peer}: still busy with an earlier message")
        try:
            return Receipt(self._exchange(content, control_id))
        finally:
            self._lock.release()

    def check(self) -> str:
        """Connect, and begin TLS where it is configured.

        Raises:
            TransientError: it cannot be reached.
        """
        started = time.monotonic()
        self._connect().close()
        how = "TLS" if self._tls is not None else "TCP"
        return (
            f"{self._peer} took a {how} connection in {1000 * (time.monotonic() - started):.0f} ms"
        )

    def close(self) -> None:
        with self._lock:
            self._hang_up()

    def _exchange(self, content: bytes, control_id: str) -> str:
        kept = self._kept()
        if kept is not None:
            try:
                return self._ask(kept, content, control_id)
            except ConnectionError:
                # The receiver closed it meanwhile; a new one tells whether it is there.
                self._hang_up()
        fresh = self._connect()
        self._connection = fresh
        try:
            return self._ask(fresh, content, control_id)
        except ConnectionError as error:
            self._hang_up()
            raise TransientError(f"{self._peer}: {type(error).__name__}") from None

    def _ask(self, connection: MllpConnection, content: bytes, control_id: str) -> str:
        """Send it and read the answer; a connection that gave none is of no more use: the answer
        may still come, and would be taken for that to the next message."""
        try:
            answer = connection.exchange(content, self._config.response_timeout)
            self._used_at = time.monotonic()
            return confirmation(answer, control_id, self._peer)
        except TransientError:
            self._hang_up()
            raise
        finally:
            if not self._config.keep_open:
                self._hang_up()

    def _kept(self) -> MllpConnection | None:
        """The open connection, where it is still good."""
        connection = self._connection
        if connection is None:
            return None
        too_old = time.monotonic() - self._used_at > self._config.keep_open
        if too_old or not connection.is_quiet():
            self._hang_up()
            return None
        return connection

    def _connect(self) -> MllpConnection:
        config = self._config
        return connect(config.host, config.port, config.connect_timeout, self._tls)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _checked(document: Document) -> Message:
    """The document's own message; it must belong to the patient and study that it is sent for."""
    if document.kind is not DocumentKind.ORU:
        raise RejectedError(f"an HL7 v2 listener takes no document of kind {document.kind}")
    message = read_message(document.content)
    patients = [one.text(3) for one in message.all("PID")]
    studies = [one.text(5) for one in message.all("OBX") if one.text(3) == _STUDY]
    identity = document.identity
    pairs = {
        "PID-3": ([identity.patient.patient_id.strip()], patients),
        "Study Instance UID": ([identity.study_instance_uid], studies),
    }
    wrong = [name for name, (meant, found) in pairs.items() if meant != found]
    if message.message_type != "ORU^R01":
        wrong.append("MSH-9")
    if wrong:
        raise RejectedError(f"the document's own {', '.join(wrong)} is not that of its result")
    return message


def build_destination(
    config: Hl7v2DestinationConfig, context: DestinationContext
) -> Hl7v2Destination:
    """`hub.ports.Connector.build_destination`.

    Raises:
        ConfigError: a file of ``tls`` cannot be used.
    """
    return Hl7v2Destination(config, context)
