"""What every DICOM object copies from the study that it is about (PS3.3 C.7.1 and C.7.2).

The objects come from typed fields, not from the source files: what the hub verified when
the study arrived is what its results say.
"""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from hub.domain.study import Instance, Study

_WAVEFORM_CLASSES = "1.2.840.10008.5.1.4.1.1.9."
_PATIENT_STUDY_TEXTS = {
    "patient_age": "PatientAge",
    "patient_size": "PatientSize",
    "patient_weight": "PatientWeight",
    "timezone_offset_from_utc": "TimezoneOffsetFromUTC",
}


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


def patient_and_study(study: Study) -> Dataset:
    """Patient, General Study and Patient Study modules, equal to the source's."""
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientName = study.patient.patient_name
    header.PatientID = study.patient.patient_id
    if study.patient.issuer_of_patient_id:
        header.IssuerOfPatientID = study.patient.issuer_of_patient_id
    header.PatientBirthDate = study.patient.patient_birth_date
    header.PatientSex = study.patient.patient_sex
    header.StudyInstanceUID = study.study_instance_uid
    header.StudyDate = study.study_date
    header.StudyTime = study.study_time
    header.AccessionNumber = study.accession_number
    if study.issuer_of_accession_number:
        header.IssuerOfAccessionNumberSequence = Sequence([_issuer(study)])
    header.StudyID = study.study_id
    header.ReferringPhysicianName = study.referring_physician_name
    if study.study_description:
        header.StudyDescription = study.study_description
    _copy_texts(header, study)
    return header


def _copy_texts(header: Dataset, study: Study) -> None:
    if not study.instances:
        return
    attributes = study.instances[0].attributes
    for name, keyword in _PATIENT_STUDY_TEXTS.items():
        if attributes.get(name):
            setattr(header, keyword, attributes[name])


def _issuer(study: Study) -> Dataset:
    """HL7v2 Hierarchic Designator (PS3.3 Table 10-17)."""
    item = Dataset()
    issuer = study.issuer_of_accession_number
    if issuer.replace(".", "").isdigit() and "." in issuer:
        item.UniversalEntityID = issuer
        item.UniversalEntityIDType = "ISO"
    else:
        item.LocalNamespaceEntityID = issuer
    return item


def referenced_request(study: Study) -> Dataset:
    """The order that the study answers (PS3.3 C.17.2, Referenced Request Sequence)."""
    item = Dataset()
    item.StudyInstanceUID = study.study_instance_uid
    item.ReferencedStudySequence = Sequence()
    item.AccessionNumber = study.accession_number
    if study.issuer_of_accession_number:
        item.IssuerOfAccessionNumberSequence = Sequence([_issuer(study)])
    item.PlacerOrderNumberImagingServiceRequest = ""
    item.FillerOrderNumberImagingServiceRequest = ""
    item.RequestedProcedureID = ""
    item.RequestedProcedureDescription = ""
    item.RequestedProcedureCodeSequence = Sequence()
    return item
