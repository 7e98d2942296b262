"""C-STORE of anything: a sender that checks nothing, so that the receiver has to."""

from __future__ import annotations

from io import BytesIO

from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def raw_store(
    port: int,
    data_set: bytes,
    *,
    sop_instance_uid: str,
    sop_class_uid: str = CT_IMAGE_STORAGE,
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
) -> tuple[int, str]:
    """Send bytes as they are; the status and the error comment of the answer."""
    ae = AE(ae_title="RAWSTORE")
    ae.add_requested_context(sop_class_uid, transfer_syntax_uid)
    association = ae.associate("127.0.0.1", port, ae_title="CAIDX")
    assert association.is_established
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = UID(sop_class_uid)
    request.AffectedSOPInstanceUID = UID(sop_instance_uid)
    request.Priority = 2
    request.DataSet = BytesIO(data_set) if data_set else None
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.release()
    assert isinstance(answer, C_STORE), "the receiver has answered"
    return int(answer.Status or 0), str(answer.ErrorComment or "")
