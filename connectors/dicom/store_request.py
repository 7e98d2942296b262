"""C-STORE requests of data sets that are encoded already (PS3.7 9.3.1.1).

pynetdicom sends either a file's data set as it is, or a data set that it encodes itself. A
document is bytes in memory, and leaves as the bytes that were made, checked and kept.
"""

from __future__ import annotations

import time
from io import BytesIO
from typing import Any

from pynetdicom.dimse_primitives import C_STORE

from connectors.dicom.requester import status_in
from hub.formats.dicom.header import HeaderScan

_MEDIUM = 0x0000
"""Priority (0000,0700)."""


def store(opened: Any, context_id: int, scan: HeaderScan, data_set: bytes) -> int | None:
    """Send a data set as it is, and wait for the response.

    Args:
        opened: an association.
        context_id: of a presentation context of the object's SOP class, in whose transfer syntax
            ``data_set`` is encoded.
        scan: the object's header.
        data_set: encoded.

    Returns:
        The status; None where none came.
    """
    request = C_STORE()
    request.MessageID = 1
    request.Priority = _MEDIUM
    request.AffectedSOPClassUID = scan.sop_class_uid
    request.AffectedSOPInstanceUID = scan.sop_instance_uid
    request.DataSet = BytesIO(data_set)
    # As pynetdicom's own send_c_store, which takes no bytes.
    checkpoint = opened._reactor_checkpoint  # noqa: SLF001
    checkpoint.clear()
    while not opened._is_paused and opened.is_alive():  # noqa: SLF001
        time.sleep(0.0001)
    opened.dimse.send_msg(request, context_id)
    _, response = opened.dimse.get_msg(block=True)
    checkpoint.set()
    if response is None:
        opened._handle_no_response()  # noqa: SLF001
        return None
    return status_in(opened._check_received_status(response))  # noqa: SLF001
