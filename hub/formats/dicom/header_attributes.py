"""Which elements of a header are kept as ``Instance.attributes``, and under which names."""

from __future__ import annotations

from collections.abc import Mapping

TEXT_ATTRIBUTES: Mapping[int, str] = {
    0x00080005: "specific_character_set",
    0x00080008: "image_type",
    0x00080012: "instance_creation_date",
    0x00080020: "study_date",
    0x00080021: "series_date",
    0x00080022: "acquisition_date",
    0x00080023: "content_date",
    0x00080030: "study_time",
    0x00080031: "series_time",
    0x00080032: "acquisition_time",
    0x00080033: "content_time",
    0x00080064: "conversion_type",
    0x00080068: "presentation_intent_type",
    0x00080070: "manufacturer",
    0x00080080: "institution_name",
    0x00080090: "referring_physician_name",
    0x00080201: "timezone_offset_from_utc",
    0x00081030: "study_description",
    0x0008103E: "series_description",
    0x00081090: "manufacturer_model_name",
    0x00101010: "patient_age",
    0x00180010: "contrast_bolus_agent",
    0x00180015: "body_part_examined",
    0x00180060: "kvp",
    0x00180088: "spacing_between_slices",
    0x00181000: "device_serial_number",
    0x00181030: "protocol_name",
    0x00181120: "gantry_detector_tilt",
    0x00181210: "convolution_kernel",
    0x00185100: "patient_position",
    0x00185101: "view_position",
    0x00200010: "study_id",
    0x00200011: "series_number",
    0x00200012: "acquisition_number",
    0x00200020: "patient_orientation",
    0x00200060: "laterality",
    0x00200062: "image_laterality",
    0x00201040: "position_reference_indicator",
    0x00280004: "photometric_interpretation",
    0x00280301: "burned_in_annotation",
    0x00281052: "rescale_intercept",
    0x00281053: "rescale_slope",
    0x00281054: "rescale_type",
    0x0040A491: "completion_flag",
    0x0040A493: "verification_flag",
    0x00420010: "document_title",
    0x00700080: "content_label",
}
"""Tag -> key in ``Instance.attributes``, for elements that hold text."""

NUMBER_ATTRIBUTES: Mapping[int, str] = {
    0x00280002: "samples_per_pixel",
    0x00280100: "bits_allocated",
    0x00280101: "bits_stored",
    0x00280102: "high_bit",
    0x00280103: "pixel_representation",
}
"""Tag -> key in ``Instance.attributes``, for elements that hold one US."""

CODE_ATTRIBUTES: Mapping[int, str] = {0x0040A043: "concept_name"}
"""Tag -> key, for code sequences: their first code's meaning; its value has ``_code`` after it."""
