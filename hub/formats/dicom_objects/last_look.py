"""The last look at a DICOM document before it is sent."""

from __future__ import annotations

from hub.domain.delivery import Document
from hub.domain.study import Location
from hub.errors import RejectedError
from hub.formats.dicom.header import (
    HeaderScan,
    instance_from_header,
    scan_header,
)
from hub.formats.dicom.part10 import data_set_of


def checked_header(document: Document) -> HeaderScan:
    """The document's header; it must belong to the study and patient that it is sent for.

    Raises:
        RejectedError: it does not, or is no DICOM file; names attributes, never their values.
    """
    transfer_syntax_uid, start = data_set_of(document.content)
    scan = scan_header(memoryview(document.content)[start:], transfer_syntax_uid)  # uncopied
    found = instance_from_header(scan, sha256="", location=Location("", 0, 0))
    meant = document.identity
    pairs = {
        "SOPInstanceUID": (document.document_id, found.sop_instance_uid),
        "StudyInstanceUID": (meant.study_instance_uid, found.study_instance_uid),
        "PatientID": (meant.patient.patient_id, found.patient.patient_id),
    }
    wrong = [name for name, (one, other) in pairs.items() if one != other]
    if wrong:
        raise RejectedError(f"the document's own {', '.join(wrong)} is not that of its result")
    return scan
