"""What source, destination and sender share of pynetdicom."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pynetdicom
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import ALL_TRANSFER_SYNTAXES, _config, evt

from hub.formats.dicom_header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_PREFERRED = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLossless,
    RLELossless,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
_RETIRED_JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in range(52, 67))

TRANSFER_SYNTAXES: tuple[str, ...] = tuple(
    dict.fromkeys(map(str, (*_PREFERRED, *ALL_TRANSFER_SYNTAXES, *_RETIRED_JPEG)))
)
"""Every transfer syntax that we accept, the best first: where a sender offers several in one
presentation context, it is asked for one without loss."""


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
