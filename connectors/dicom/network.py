"""What destination, sender and archive share of pynetdicom."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pynetdicom
from pynetdicom import _config, evt

from hub.formats.dicom.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME


def application_entity(ae_title: str, maximum_pdu_length: int) -> Any:
    """A pynetdicom AE under our implementation's name.

    pynetdicom's own event log prints messages in full; it is off, and only its errors are
    kept, which name no patient.
    """
    _config.LOG_HANDLER_LEVEL = "none"
    _config.STORE_SEND_CHUNKED_DATASET = True  # files go out as they are, not decoded
    logging.getLogger("pynetdicom").setLevel(logging.ERROR)
    ae = pynetdicom.AE(ae_title=ae_title)
    ae.maximum_pdu_size = maximum_pdu_length
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return ae


def send_at_once(event: Any) -> None:
    """Turn Nagle's algorithm off on a new connection (handler of ``EVT_CONN_OPEN``).

    A DIMSE message leaves in several pieces; with delayed acknowledgements each would wait
    for 40 ms.
    """
    connection = event.assoc.dul.socket.socket
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


AT_ONCE = (evt.EVT_CONN_OPEN, send_at_once)
