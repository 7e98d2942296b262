"""Senders that stop in between, and a hub whose routes tell them apart by series description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from hub.domain.identity import derived_uid
from hub.formats.images.ct_phantom import chest_phantom
from hub.store.documents import DocumentStore
from tests.running_hub import AE_TITLE, RunningHub

MAIN, URGENT, KEEP, REFUSE = "MAIN", "URGENT", "KEEP", "REFUSE"
"""Series descriptions; each has a route of its own."""


def route(name: str, **options: Any) -> dict[str, Any]:
    """A route for the series of that description."""
    return {
        "name": name.lower(),
        "when": "'CT' in study.modalities_in_study",
        "series": f"series.series_description == '{name}'",
        "model": "lung-density",
        **options,
    }


ROUTES = [
    route(MAIN),
    route(URGENT, start="series", priority="stat"),
    route(KEEP, late_images="keep"),
    route(REFUSE, incomplete="refuse"),
]
SECTIONS = {
    "routes": ROUTES,
    "completeness": {
        "quiet_seconds": 0.5,
        "straggler_seconds": 4.0,
        "series_quiet_seconds": 1.5,
    },
}


def study_uid(name: str) -> str:
    """Study Instance UID of a made-up study."""
    return derived_uid("arrivals", name)


def images(name: str, description: str, slices: int = 8) -> list[Dataset]:
    """One series of a study: a small chest phantom."""
    made = chest_phantom(
        slices=slices,
        rows=128,
        columns=128,
        slice_spacing_mm=5.0,
        study_instance_uid=study_uid(name),
    )
    return [_image(content, name, description) for content in made.files]


def _image(content: bytes, name: str, description: str) -> Dataset:
    data_set = pydicom.dcmread(BytesIO(content))
    data_set.SeriesDescription = description
    data_set.SeriesInstanceUID = derived_uid("arrivals", name, description)
    number = str(data_set.InstanceNumber)
    data_set.SOPInstanceUID = derived_uid("arrivals", name, description, number)
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    return data_set


@contextmanager
def association(hub: RunningHub, ae_title: str = "SCANNER") -> Iterator[Association]:
    """An open association; it is released at the end, unless the test has aborted it."""
    entity = AE(ae_title=ae_title)
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    opened = entity.associate("127.0.0.1", hub.dicom_port, ae_title=AE_TITLE)
    assert opened.is_established
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()


def store(sender: Association, data_sets: list[Dataset]) -> None:
    """Send them one after another; each is acknowledged."""
    for data_set in data_sets:
        assert sender.send_c_store(data_set).Status == 0x0000


def send(hub: RunningHub, data_sets: list[Dataset], ae_title: str = "SCANNER") -> None:
    """One whole transfer."""
    with association(hub, ae_title) as sender:
        store(sender, data_sets)


def conclusions(hub: RunningHub, name: str) -> list[str]:
    """What the FHIR reports about a study say, in the order in which they were made."""
    rows = hub.rows(
        "SELECT d.sha256 FROM documents d JOIN requests r ON r.request_id = d.request_id"
        " JOIN results t ON t.request_id = r.request_id"
        " WHERE d.kind = 'fhir' AND r.study_instance_uid = :uid ORDER BY t.made_at",
        uid=study_uid(name),
    )
    documents = DocumentStore(Path(hub.data) / "documents")
    bundles = [json.loads(documents.get(row["sha256"])) for row in rows]
    return [
        entry["resource"]["conclusion"]
        for bundle in bundles
        for entry in bundle["entry"]
        if entry["resource"]["resourceType"] == "DiagnosticReport"
    ]
