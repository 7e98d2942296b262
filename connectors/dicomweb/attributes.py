"""What the hub's index holds of studies, series and instances, as DICOM JSON (PS3.18 annex F)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hub.domain.study import Instance
from hub.ports import RemoteStudy

Model = dict[str, dict[str, Any]]

STUDY_INSTANCE_UID = "0020000D"
SERIES_INSTANCE_UID = "0020000E"
SOP_INSTANCE_UID = "00080018"
RETRIEVE_URL = "00081190"
_AVAILABILITY = "00080056"

_STUDY: Mapping[str, tuple[str, str]] = {
    "00080020": ("DA", "study_date"),
    "00080030": ("TM", "study_time"),
    "00080050": ("SH", "accession_number"),
    "00080061": ("CS", "modalities_in_study"),
    "00080090": ("PN", "referring_physician_name"),
    "00081030": ("LO", "study_description"),
    "00100010": ("PN", "patient_name"),
    "00100020": ("LO", "patient_id"),
    "00100021": ("LO", "issuer_of_patient_id"),
    "00100030": ("DA", "patient_birth_date"),
    "00100040": ("CS", "patient_sex"),
    "0020000D": ("UI", "study_instance_uid"),
    "00200010": ("SH", "study_id"),
    "00201206": ("IS", "number_of_series"),
    "00201208": ("IS", "number_of_instances"),
}
"""Tag -> VR and field of `RemoteStudy` (PS3.18 Table 10.6.3-3, and what viewers want)."""

_SERIES: Mapping[str, tuple[str, str]] = {
    "00080021": ("DA", "series_date"),
    "00080031": ("TM", "series_time"),
    "00080070": ("LO", "manufacturer"),
    "00080201": ("SH", "timezone_offset_from_utc"),
    "0008103E": ("LO", "series_description"),
    "00081090": ("LO", "manufacturer_model_name"),
    "00180015": ("CS", "body_part_examined"),
    "00181030": ("LO", "protocol_name"),
    "00200011": ("IS", "series_number"),
    "00200060": ("CS", "laterality"),
}
"""Tag -> VR and key of ``Instance.attributes`` (PS3.18 Table 10.6.3-4)."""
_SERIES_OWN = {"00080060": "CS", SERIES_INSTANCE_UID: "UI", "00201209": "IS"}

_INSTANCE: Mapping[str, tuple[str, str]] = {
    "00080008": ("CS", "image_type"),
    "00080022": ("DA", "acquisition_date"),
    "00080023": ("DA", "content_date"),
    "00080032": ("TM", "acquisition_time"),
    "00080033": ("TM", "content_time"),
    "00200012": ("IS", "acquisition_number"),
    "00280100": ("US", "bits_allocated"),
}
"""Tag -> VR and key of ``Instance.attributes`` (PS3.18 Table 10.6.3-5)."""
_INSTANCE_FIELDS: Mapping[str, tuple[str, str]] = {
    "00080016": ("UI", "sop_class_uid"),
    SOP_INSTANCE_UID: ("UI", "sop_instance_uid"),
    "00083002": ("UI", "transfer_syntax_uid"),
    "00200013": ("IS", "instance_number"),
    "00280008": ("IS", "number_of_frames"),
    "00280010": ("US", "rows"),
    "00280011": ("US", "columns"),
}
"""Tag -> VR and field of `Instance`."""

STUDY_ATTRIBUTES: Mapping[str, str] = {tag: vr for tag, (vr, _) in _STUDY.items()}
SERIES_ATTRIBUTES: Mapping[str, str] = {
    **{tag: vr for tag, (vr, _) in _SERIES.items()},
    **_SERIES_OWN,
}
INSTANCE_ATTRIBUTES: Mapping[str, str] = {
    tag: vr for table in (_INSTANCE, _INSTANCE_FIELDS) for tag, (vr, _) in table.items()
}
"""Tag -> VR of what can be searched for at each level."""

_REQUIRED = frozenset(
    {
        *("00080020", "00080030", "00080050", "00080056", "00080061", "00080090", "00100010"),
        *("00100020", "00100030", "00100040", "0020000D", "00200010", "00201206", "00201208"),
        *("00080060", "0020000E", "00200011", "00201209", "00080016", "00080018", "00200013"),
    }
)
"""Returned even where they are empty."""


def study_model(study: RemoteStudy, base_url: str) -> Model:
    """A study's attributes."""
    values = {tag: (vr, getattr(study, name)) for tag, (vr, name) in _STUDY.items()}
    return _model(values, f"{base_url}/studies/{study.study_instance_uid}")


def series_model(instances: Sequence[Instance], base_url: str) -> Model:
    """The attributes of the series that these instances are."""
    first = instances[0]
    values: dict[str, tuple[str, object]] = {
        tag: (vr, _first(instances, name)) for tag, (vr, name) in _SERIES.items()
    }
    values["00080060"] = ("CS", next((i.modality for i in instances if i.modality), ""))
    values[SERIES_INSTANCE_UID] = ("UI", first.series_instance_uid)
    values[STUDY_INSTANCE_UID] = ("UI", first.study_instance_uid)
    values["00201209"] = ("IS", len(instances))
    return _model(values, _series_url(first, base_url))


def instance_model(instance: Instance, base_url: str) -> Model:
    """An instance's attributes."""
    values: dict[str, tuple[str, object]] = {
        tag: (vr, instance.attributes.get(name, "")) for tag, (vr, name) in _INSTANCE.items()
    }
    values |= {tag: (vr, getattr(instance, name)) for tag, (vr, name) in _INSTANCE_FIELDS.items()}
    values[STUDY_INSTANCE_UID] = ("UI", instance.study_instance_uid)
    values[SERIES_INSTANCE_UID] = ("UI", instance.series_instance_uid)
    return _model(values, instance_url(instance, base_url))


def instance_url(instance: Instance, base_url: str) -> str:
    """Where an instance can be retrieved."""
    return f"{_series_url(instance, base_url)}/instances/{instance.sop_instance_uid}"


def _series_url(instance: Instance, base_url: str) -> str:
    study, series = instance.study_instance_uid, instance.series_instance_uid
    return f"{base_url}/studies/{study}/series/{series}"


def _first(instances: Sequence[Instance], name: str) -> str:
    return next((text for i in instances if (text := i.attributes.get(name, ""))), "")


def _model(values: Mapping[str, tuple[str, object]], url: str) -> Model:
    model = {tag: _element(vr, value) for tag, (vr, value) in values.items()}
    model[RETRIEVE_URL] = {"vr": "UR", "Value": [url]}
    model[_AVAILABILITY] = {"vr": "CS", "Value": ["ONLINE"]}
    kept = (item for item in model.items() if "Value" in item[1] or item[0] in _REQUIRED)
    return dict(sorted(kept))


def _element(vr: str, value: object) -> dict[str, Any]:
    if isinstance(value, str):
        texts = [value] if vr in {"LT", "ST", "UT"} else value.split("\\")
        values = [_value(vr, text) for text in texts]
    elif isinstance(value, tuple):
        values = list(value)
    else:
        values = [value]
    if all(item in {None, ""} if not isinstance(item, dict) else not item for item in values):
        return {"vr": vr}
    return {"vr": vr, "Value": values}


def _value(vr: str, text: str) -> object:
    """One value; a number that is none is left out."""
    if vr == "PN":
        groups = zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False)
        return {name: group for name, group in groups if group}
    if vr in {"IS", "US"}:
        return int(text) if text.lstrip("+-").isdecimal() else None
    if vr == "DS":
        return _finite(text)
    return text or None


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
