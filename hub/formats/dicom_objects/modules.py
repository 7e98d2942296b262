"""The modules that all DICOM objects of the hub share: SOP, series, equipment, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone, tzinfo

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.identity import derived_uuid
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.model_card import ModelCard
from hub.domain.report import ReportVersion
from hub.formats.dicom.header import EXPLICIT_VR_LITTLE_ENDIAN
from hub.formats.dicom.part10 import part10_prefix
from hub.formats.dicom.writer import Bulk, data_set, fitted
from hub.formats.dicom_objects.source_dataset import patient_and_study
from hub.formats.encoding import (
    FIRST_VERSION,
    PRODUCT_NAME,
    EncodingContext,
    device_uid,
    document_uid,
    series_uid,
)
from hub.ports import ReceivedObject

PROCESSING_ALGORITHM = Code("1630", "99IHE", "Processing Algorithm")
"""Purpose of reference of the algorithm that made a result (IHE AIR)."""

MANUFACTURER = "CAIDX"

COMPREHENSIVE_3D_SR_STORAGE = "1.2.840.10008.5.1.4.1.1.88.34"
SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
GRAYSCALE_PRESENTATION_STATE_STORAGE = "1.2.840.10008.5.1.4.1.1.11.1"
KEY_OBJECT_SELECTION_STORAGE = "1.2.840.10008.5.1.4.1.1.88.59"
ENCAPSULATED_PDF_STORAGE = "1.2.840.10008.5.1.4.1.1.104.1"

_CODING_SCHEMES = (
    ("99CAIDX", "CAIDX hub codes", "CAIDX"),
    ("99IHE", "IHE Radiology codes", "IHE International"),
)
_OUTCOME_TITLES = {
    Outcome.NOT_ASSESSABLE: "NOT ASSESSABLE",
    Outcome.UNSUITABLE: "NOT ANALYSED",
    Outcome.FAILED: "FAILED",
}
_FIRST_SERIES_NUMBER = 9000
_SERIES_NUMBERS = {
    DocumentKind.SR: 1,
    DocumentKind.SEG: 2,
    DocumentKind.ENCAPSULATED_PDF: 3,
    DocumentKind.SR_3D: 1,
    DocumentKind.SEG_FRACTIONAL: 4,
    DocumentKind.SEG_LABELMAP: 5,
    DocumentKind.PARAMETRIC_MAP: 6,
    DocumentKind.PRESENTATION_STATE: 7,
    DocumentKind.KEY_IMAGE: 8,
    DocumentKind.KEY_OBJECTS: 9,
    DocumentKind.REJECTION_NOTE: 9,
}


def object_header(
    kind: DocumentKind,
    sop_class_uid: str,
    modality: str,
    *,
    request: InferenceRequest,
    card: ModelCard,
    context: EncodingContext,
    result: InferenceResult | None = None,
) -> Dataset:
    """Series, equipment and SOP common modules of a new object; the patient and the study
    are added by :func:`dicom_document`. ``result`` lets the description of the series tell how
    it ended."""
    header = Dataset()
    made_at = local_time(request, context)
    header.SOPClassUID = sop_class_uid
    header.SOPInstanceUID = document_uid(kind, request, context)
    header.InstanceCreationDate, header.InstanceCreationTime = date_and_time(made_at)
    header.SeriesDate, header.SeriesTime = date_and_time(made_at)
    header.ContentDate, header.ContentTime = date_and_time(made_at)
    header.Modality = modality
    header.SeriesInstanceUID = series_uid(kind, request, context)
    header.SeriesNumber = _series_number(kind, request)
    header.SeriesDescription = document_title(card, context.report, result)
    header.InstanceNumber = 1
    header.Manufacturer = MANUFACTURER
    header.ManufacturerModelName = PRODUCT_NAME
    header.SoftwareVersions = fitted(context.software_version, 64)
    header.DeviceSerialNumber = derived_uuid("installation", context.institution_name).hex[:16]
    header.InstitutionName = fitted(context.institution_name, 64)
    header.CodingSchemeIdentificationSequence = Sequence(
        _coding_scheme(*scheme) for scheme in _CODING_SCHEMES
    )
    header.ContributingEquipmentSequence = Sequence([_algorithm(request, card, made_at)])
    return header


def document_title(
    card: ModelCard, version: ReportVersion = FIRST_VERSION, result: InferenceResult | None = None
) -> str:
    """``AI`` first, so that no list of series or documents shows it as human-made; then what the
    report is worth, which a long title never pushes out of sight. At most 64 characters."""
    outcome = result.outcome if result is not None else Outcome.ASSESSED
    if version.is_withdrawn:
        before, after = "AI WITHDRAWN ", ""
    elif outcome is not Outcome.ASSESSED:
        before, after = f"AI {_OUTCOME_TITLES[outcome]} ", ""
    else:
        critical = result is not None and any(f.critical for f in result.findings)
        before = "AI CRITICAL " if critical else "AI "
        after = " (not verified)" if version.verifier is None else " (verified)"
    return before + fitted(card.procedure.title, 64 - len(before) - len(after)) + after


def local_time(request: InferenceRequest, context: EncodingContext) -> datetime:
    """When the result was made, in the time zone that the object's dates and times are in."""
    return context.made_at.astimezone(_offset_of_source(request) or context.timezone)


def _offset_of_source(request: InferenceRequest) -> tzinfo | None:
    """Timezone Offset From UTC (0008,0201) as ``&ZZXX``; the copy in the header makes it
    apply to the new object's dates as well (PS3.3 C.12.1.1.8)."""
    instances = request.study.instances
    text = instances[0].attributes.get("timezone_offset_from_utc", "") if instances else ""
    if len(text) != len("+hhmm") or text[0] not in "+-" or not text[1:].isdigit():
        return None
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[3:5]))
    return timezone(-offset if text[0] == "-" else offset)


def date_and_time(moment: datetime) -> tuple[str, str]:
    """DICOM DA and TM."""
    return moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")


def dicom_document(
    kind: DocumentKind,
    request: InferenceRequest,
    header: Dataset,
    bulk: Mapping[int, bytes] | Bulk,
    related_uids: tuple[str, ...] = (),
) -> Document:
    """The finished object, as a Part 10 file."""
    identity = ReceivedObject(
        sop_class_uid=str(header.SOPClassUID),
        sop_instance_uid=str(header.SOPInstanceUID),
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        data_set=b"",
    )
    pieces = data_set(header, {**patient_and_study(request.study), **bulk})
    return Document(
        document_id=identity.sop_instance_uid,
        kind=kind,
        request_id=request.request_id,
        identity=request.study.identity,
        content=b"".join((part10_prefix(identity), *pieces)),
        related_uids=related_uids,
    )


def code_dataset(concept: Code) -> Dataset:
    """A code sequence item (PS3.3 Table 8.8-1)."""
    item = Dataset()
    short = len(concept.code_value) <= 16  # noqa: PLR2004 - the length of SH
    setattr(item, "CodeValue" if short else "LongCodeValue", concept.code_value)
    item.CodingSchemeDesignator = concept.coding_scheme_designator
    item.CodeMeaning = fitted(concept.code_meaning, 64)
    return item


def _series_number(kind: DocumentKind, request: InferenceRequest) -> int:
    model = derived_uuid("series-number", request.route, str(request.model)).int % 90
    return _FIRST_SERIES_NUMBER + 10 * model + _SERIES_NUMBERS[kind]


def _coding_scheme(designator: str, name: str, organization: str) -> Dataset:
    item = Dataset()
    item.CodingSchemeDesignator = designator
    item.CodingSchemeName = name
    item.CodingSchemeResponsibleOrganization = organization
    return item


def _algorithm(request: InferenceRequest, card: ModelCard, made_at: datetime) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([code_dataset(PROCESSING_ALGORITHM)])
    item.Manufacturer = fitted(card.vendor.name, 64)
    item.ManufacturerModelName = fitted(card.name, 64)
    item.SoftwareVersions = fitted(card.version, 64)
    item.DeviceUID = device_uid(request.model)
    item.ContributionDateTime = made_at.strftime("%Y%m%d%H%M%S.%f%z")
    return item
