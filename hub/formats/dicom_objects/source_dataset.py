"""What every DICOM object copies from the study that it is about (PS3.3 C.7.1 and C.7.2).

The objects come from typed fields, not from the source files: what the hub verified when
the study arrived is what its results say.
"""

from __future__ import annotations

from hub.domain.study import Instance, Study
from hub.formats.dicom import writer as write

_WAVEFORM_CLASSES = "1.2.840.10008.5.1.4.1.1.9."
LOSSY_METHODS = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
}
"""Transfer syntaxes that may have lost information -> Lossy Image Compression Method."""


def compression_ratio(image: Instance) -> str:
    """Approximate Lossy Image Compression Ratio (0028,2112): pixels as they were over the
    bytes as received; 1 where that is not known."""
    bits = image.attributes.get("bits_allocated", "")
    if not bits.isdigit() or image.rows is None or image.columns is None:
        return "1"
    uncompressed = image.rows * image.columns * int(bits) // 8
    return f"{max(uncompressed / max(image.location.length, 1), 1.0):.1f}"


def is_waveform(instance: Instance) -> bool:
    """Is it one of the waveform storage classes (PS3.4 B.5)?"""
    return instance.sop_class_uid.startswith(_WAVEFORM_CLASSES)


def is_image(instance: Instance) -> bool:
    """Does it hold pixels?"""
    return instance.rows is not None and not is_waveform(instance)


def patient_and_study(study: Study) -> dict[int, bytes]:
    """Patient, General Study and Patient Study modules, equal to the source's; by tag.

    Written as they are, without a check of their values: a library that checks also logs
    the value that it does not like, and these are a patient's.
    """
    patient = study.patient
    elements = {
        0x00080005: _text(0x00080005, "CS", "ISO_IR 192"),
        0x00080020: _text(0x00080020, "DA", study.study_date),
        0x00080030: _text(0x00080030, "TM", study.study_time),
        0x00080050: _text(0x00080050, "SH", study.accession_number),
        0x00080090: _text(0x00080090, "PN", study.referring_physician_name),
        0x00100010: _text(0x00100010, "PN", patient.patient_name),
        0x00100020: _text(0x00100020, "LO", patient.patient_id),
        0x00100030: _text(0x00100030, "DA", patient.patient_birth_date),
        0x00100040: _text(0x00100040, "CS", patient.patient_sex),
        0x0020000D: _text(0x0020000D, "UI", study.study_instance_uid),
        0x00200010: _text(0x00200010, "SH", study.study_id),
    }
    optional = {
        0x00080201: ("SH", _attribute(study, "timezone_offset_from_utc")),
        0x00081030: ("LO", study.study_description),
        0x00100021: ("LO", patient.issuer_of_patient_id),
        0x00101010: ("AS", _attribute(study, "patient_age")),
    }
    elements |= {tag: _text(tag, vr, value) for tag, (vr, value) in optional.items() if value}
    if study.issuer_of_accession_number:
        elements[0x00080051] = _issuer(study.issuer_of_accession_number)
    return elements


def _text(tag: int, vr: str, value: str) -> bytes:
    return write.element(tag, vr, value.encode())


def _attribute(study: Study, name: str) -> str:
    return study.instances[0].attributes.get(name, "") if study.instances else ""


def _issuer(issuer: str) -> bytes:
    """Issuer of Accession Number Sequence: an OID, or a local name (PS3.3 Table 10-17)."""
    if "." in issuer and issuer.replace(".", "").isdigit():
        item = _text(0x00400032, "UT", issuer) + _text(0x00400033, "CS", "ISO")
    else:
        item = _text(0x00400031, "UT", issuer)
    return write.sequence(0x00080051, [item])


def referenced_request(study: Study) -> bytes:
    """(0040,A370): the order that the study answers (PS3.3 C.17.2)."""
    item = _text(0x00080050, "SH", study.accession_number)
    if study.issuer_of_accession_number:
        item += _issuer(study.issuer_of_accession_number)
    item += write.sequence(0x00081110, [])
    item += _text(0x0020000D, "UI", study.study_instance_uid)
    item += _text(0x00321060, "LO", "")
    item += write.sequence(0x00321064, [])
    item += _text(0x00401001, "SH", "")
    item += _text(0x00402016, "LO", "") + _text(0x00402017, "LO", "")
    return write.sequence(0x0040A370, [item])
