"""Associations that we ask for (SCU side)."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt

from connectors.dicom.network import AT_ONCE, application_entity
from connectors.dicom.reactor_pause import mend_pauses
from hub.errors import CaidxError, ConfigError, RejectedError, TransientError
from hub.transport.tls import client_context
from hub.transport.tls_config import TlsClientConfig

_PERMANENT_BY_USER = (1, 1)
"""Result and Source: rejected-permanent, DICOM UL service-user."""
_WRONG_NAMES = frozenset({2, 3, 7})
"""Application context, calling or called AE title not supported or recognized."""
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom to call, as whom, and how long to wait (seconds)."""

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str
    connect_timeout: float = 10.0
    response_timeout: float = 60.0
    maximum_pdu_length: int = 131072
    tls: TlsClientConfig | None = None

    def __str__(self) -> str:
        return f"{self.called_ae_title}@{self.host}:{self.port}"


@contextmanager
def association(
    peer: Peer,
    contexts: Sequence[tuple[str, Sequence[str]]],
    *,
    roles: Sequence[Any] = (),
    handlers: Sequence[Any] = (),
) -> Iterator[Any]:
    """An association with a peer, released or aborted in the end.

    Args:
        peer: the peer.
        contexts: abstract syntax and transfer syntaxes of each presentation context, at
            most 128 (PS3.8 9.3.2.2).
        roles: SCP/SCU role selections (PS3.7 D.3.3.4), where we are the SCP.
        handlers: pynetdicom event handlers for what the peer asks us on it.

    Raises:
        TransientError: not reachable, rejected for now, or aborted; or the certificates cannot be
            used now, as while somebody exchanges them.
        RejectedError: the peer accepts none of the contexts, or will never accept us under this
            AE title, or itself under that one.
    """
    ae = application_entity(peer.calling_ae_title, peer.maximum_pdu_length)
    ae.connection_timeout = ae.acse_timeout = peer.connect_timeout
    ae.dimse_timeout = ae.network_timeout = peer.response_timeout
    for abstract_syntax, transfer_syntaxes in contexts:
        ae.add_requested_context(abstract_syntax, list(transfer_syntaxes))
    connected: list[Any] = []
    opened = ae.associate(
        peer.host,
        peer.port,
        ae_title=peer.called_ae_title,
        max_pdu=peer.maximum_pdu_length,
        tls_args=_tls_of(peer),
        ext_neg=list(roles),
        evt_handlers=[
            AT_ONCE,
            (evt.EVT_CONN_OPEN, connected.append),
            (evt.EVT_CONN_OPEN, _limit_waiting, [peer.response_timeout]),
            *handlers,
        ],
    )
    if not opened.is_established:
        raise _not_established(peer, opened, connected=bool(connected))
    mend_pauses(opened)
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()


def _tls_of(peer: Peer) -> tuple[ssl.SSLContext, str] | None:
    """Read anew for each association: files are exchanged while the hub runs."""
    if peer.tls is None:
        return None
    try:
        return client_context(peer.tls), peer.host
    except ConfigError as error:
        raise TransientError(f"{peer}: {error}") from error


def _limit_waiting(event: Any, seconds: float) -> None:
    """Give up a peer that stops in the middle of a PDU, sends it drop by drop, or takes no more
    of ours.

    pynetdicom's own timeouts do not reach these waits: its thread would stay in ``recv`` or
    ``send`` for ever, and whoever aborts the association waits for that thread.
    """
    transport = event.assoc.dul.socket
    connection = transport.socket
    if connection is not None:
        connection.settimeout(seconds)
        transport.recv = partial(_received, connection, seconds)


def _received(connection: socket.socket, seconds: float, count: int) -> bytearray:
    """In place of `AssociationSocket.recv`: so many bytes, fewer where the connection ends.

    Raises:
        TimeoutError: not all came within so many seconds.
    """
    deadline = time.monotonic() + seconds
    received = bytearray()
    try:
        while len(received) < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            piece = connection.recv(min(count - len(received), _PIECE_BYTES))
            if not piece:
                break
            received += piece
    finally:
        connection.settimeout(seconds)
    return received


def _not_established(peer: Peer, opened: Any, *, connected: bool) -> CaidxError:
    if not connected:
        how = "" if peer.tls is None else " by TLS: no connection, or no agreement on certificates"
        return TransientError(f"{peer} cannot be reached{how}")
    if opened.is_rejected:
        answer = opened.acceptor.primitive
        kind = RejectedError if _is_for_ever(answer) else TransientError
        return kind(f"{peer} rejected the association: {answer.result_str}, {answer.reason_str}")
    if opened.rejected_contexts:
        return RejectedError(f"{peer} accepts none of the proposed presentation contexts")
    return TransientError(f"{peer} aborted the association, or did not answer in time")


def _is_for_ever(answer: Any) -> bool:
    """Rejected-permanent with a reason that a person has to remove (PS3.8 9.3.4). "No reason
    given" is what receivers also say while they start or are overloaded."""
    given = (answer.result, answer.result_source)
    return given == _PERMANENT_BY_USER and answer.diagnostic in _WRONG_NAMES


def accepted(opened: Any, sop_class_uid: str) -> bool:
    """Whether the peer accepted a SOP class."""
    return any(item.abstract_syntax == sop_class_uid for item in opened.accepted_contexts)


def status_in(answer: Dataset) -> int | None:
    """The status of a response; None when there was none, or the association was lost."""
    return int(answer.Status) if "Status" in answer else None
