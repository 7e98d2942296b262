"""The concepts of the SR templates that the hub writes (PS3.16)."""

from __future__ import annotations

from functools import cache

from pydicom.sr.codedict import codes

from hub.domain.coding import Code


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


# TID 1500, 1204, 1002, 1003, 1004
IMAGING_MEASUREMENT_REPORT = _dcm("126000", "Imaging Measurement Report")
LANGUAGE = _dcm("121049", "Language of Content Item and Descendants")
ENGLISH = Code("en", "RFC5646", "English")
OBSERVER_TYPE = _dcm("121005", "Observer Type")
DEVICE = _dcm("121007", "Device")
PERSON = _dcm("121006", "Person")
PERSON_OBSERVER_NAME = _dcm("121008", "Person Observer Name")
PERSON_OBSERVER_ORGANIZATION_NAME = _dcm("121009", "Person Observer's Organization Name")
PERSON_OBSERVER_ROLE_IN_PROCEDURE = _dcm("121011", "Person Observer's Role in this Procedure")
VERIFYING = _dcm("121098", "Verifying")
DEVICE_OBSERVER_UID = _dcm("121012", "Device Observer UID")
DEVICE_OBSERVER_NAME = _dcm("121013", "Device Observer Name")
DEVICE_OBSERVER_MANUFACTURER = _dcm("121014", "Device Observer Manufacturer")
DEVICE_OBSERVER_MODEL_NAME = _dcm("121015", "Device Observer Model Name")
PROCEDURE_REPORTED = _dcm("121058", "Procedure reported")
IMAGING_MEASUREMENTS = _dcm("126010", "Imaging Measurements")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")

# TID 1600, 1602, 1603, 1604
IMAGE_LIBRARY = _dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP = _dcm("126200", "Image Library Group")
SOURCE = Code("260753009", "SCT", "Source")
MODALITY = _dcm("121139", "Modality")
FRAME_OF_REFERENCE_UID = _dcm("112227", "Frame of Reference UID")
PIXEL_DATA_ROWS = _dcm("110910", "Pixel Data Rows")
PIXEL_DATA_COLUMNS = _dcm("110911", "Pixel Data Columns")
HORIZONTAL_PIXEL_SPACING = _dcm("111026", "Horizontal Pixel Spacing")
VERTICAL_PIXEL_SPACING = _dcm("111066", "Vertical Pixel Spacing")
SLICE_THICKNESS = _dcm("112225", "Slice Thickness")
IMAGE_POSITION = (
    _dcm("110901", "Image Position (Patient) X"),
    _dcm("110902", "Image Position (Patient) Y"),
    _dcm("110903", "Image Position (Patient) Z"),
)
IMAGE_ORIENTATION = (
    _dcm("110904", "Image Orientation (Patient) Row X"),
    _dcm("110905", "Image Orientation (Patient) Row Y"),
    _dcm("110906", "Image Orientation (Patient) Row Z"),
    _dcm("110907", "Image Orientation (Patient) Column X"),
    _dcm("110908", "Image Orientation (Patient) Column Y"),
    _dcm("110909", "Image Orientation (Patient) Column Z"),
)
MILLIMETER = Code("mm", "UCUM", "mm")
PIXELS = Code("{pixels}", "UCUM", "Pixels")
NO_UNITS = Code("1", "UCUM", "no units")

# TID 1410, 1411, 1501, 300, 320, 321, 4019
MEASUREMENT_GROUP = _dcm("125007", "Measurement Group")
TRACKING_IDENTIFIER = _dcm("112039", "Tracking Identifier")
TRACKING_UNIQUE_IDENTIFIER = _dcm("112040", "Tracking Unique Identifier")
FINDING = _dcm("121071", "Finding")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
LATERALITY = Code("272741003", "SCT", "Laterality")
IMAGE_REGION = _dcm("111030", "Image Region")
VOLUME_SURFACE = _dcm("121231", "Volume Surface")
REFERENCED_SEGMENT = _dcm("121191", "Referenced Segment")
SOURCE_IMAGE_FOR_SEGMENTATION = _dcm("121233", "Source image for segmentation")
SOURCE_SERIES_FOR_SEGMENTATION = _dcm("121232", "Source series for segmentation")
SOURCE_OF_MEASUREMENT = _dcm("121112", "Source of Measurement")
PROBABILITY = _dcm("122157", "Probability")
ALGORITHM_NAME = _dcm("111001", "Algorithm Name")
ALGORITHM_VERSION = _dcm("111003", "Algorithm Version")
ALGORITHM_PARAMETERS = _dcm("111002", "Algorithm Parameters")
ALGORITHM_MANUFACTURER = _dcm("122405", "Algorithm Manufacturer")
ARTIFICIAL_INTELLIGENCE = _dcm("123110", "Artificial Intelligence")
COMMENT = _dcm("121106", "Comment")

YES = Code("373066001", "SCT", "Yes")

SEGMENTATION = _dcm("113076", "Segmentation")
PARAMETRIC_MAP = Code("parametric-map", "99CAIDX", "Parametric map")
KEY_IMAGES = _dcm("121180", "Key Images")

# TID 2010
KEY_OBJECT_DESCRIPTION = _dcm("113012", "Key Object Description")
OF_INTEREST = _dcm("113000", "Of Interest")
REJECTED_FOR_PATIENT_SAFETY_REASONS = _dcm("113037", "Rejected for Patient Safety Reasons")

# The hub's own
AI_RESULT = Code("ai-result", "99CAIDX", "AI result")
AI_RESULT_WITHDRAWN = Code("ai-result-withdrawn", "99CAIDX", "AI result WITHDRAWN: do not use")
CRITICAL_FINDING = Code("critical-finding", "99CAIDX", "Critical finding")
WITHDRAWN = Code("withdrawn", "99CAIDX", "Withdrawn: must not be used")
OBJECTS_OF_RESULT = Code("ai-objects", "99CAIDX", "Objects of the AI result")
REASON = Code("ai-reason", "99CAIDX", "Reason for the outcome")
WARNING = Code("ai-warning", "99CAIDX", "Limitation of the result")


@cache
def _modality_meanings() -> dict[str, str]:
    group = codes.cid29
    return {code.value: code.meaning for code in (getattr(group, name) for name in group.dir())}


def acquisition_modality(modality: str) -> Code | None:
    """The code of Modality (0008,0060) in CID 29; None where the context group lacks it."""
    meaning = _modality_meanings().get(modality)
    return _dcm(modality, meaning) if meaning else None
