"""Documents in another transfer syntax, for receivers that do not take the one they have.

Only into uncompressed ones: nothing is lost, and every receiver has to accept Implicit VR Little
Endian (PS3.5 10.1).
"""

from __future__ import annotations

from io import BytesIO

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from connectors.dicom.normalized_data import encoded
from hub.errors import RejectedError

_UNREADABLE = (
    InvalidDicomError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
)
"""What pydicom raises for objects, and pixels, that it cannot read."""


def proposals(transfer_syntax_uid: str) -> tuple[str, ...]:
    """The transfer syntaxes that an object can be sent in, the best first: its own, then the
    uncompressed ones."""
    own = str(transfer_syntax_uid)
    return tuple(dict.fromkeys((own, str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))))


def transcoded(content: bytes, transfer_syntax_uid: str) -> bytes:
    """The data set of a Part 10 file in an uncompressed transfer syntax.

    Args:
        content: the file.
        transfer_syntax_uid: Explicit or Implicit VR Little Endian.

    Raises:
        RejectedError: it cannot be read.
    """
    try:
        data_set = pydicom.dcmread(BytesIO(content))
        if UID(data_set.file_meta.TransferSyntaxUID).is_encapsulated:
            # It stays the same object: decoding loses nothing more (PS3.3 C.7.6.1.1.5).
            data_set.decompress(as_rgb=False, generate_instance_uid=False)
        return encoded(data_set, transfer_syntax_uid)
    except _UNREADABLE as error:
        raise RejectedError(
            f"the document cannot be transcoded for the receiver: {type(error).__name__}"
        ) from error
