"""The two studies of the demonstration, and what is known about each beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.data import get_testdata_file

from hub.domain.delivery import DocumentKind
from hub.errors import RejectedError
from hub.formats.images.ct_phantom import chest_phantom

SLICES = 96
_EVERY_KIND = (
    DocumentKind.SR,
    DocumentKind.SEG,
    DocumentKind.PDF,
    DocumentKind.ENCAPSULATED_PDF,
    DocumentKind.FHIR,
)


@dataclass(frozen=True, slots=True)
class Known:
    """A value that a result must have, known from elsewhere."""

    code_value: str
    """Code of the finding that is compared."""
    what: str
    value: float
    unit: str
    tolerance: float
    """Largest allowed difference, in the same unit."""

    def agrees(self, measured: float | None) -> bool:
        """Whether a measured value is close enough; a missing one is not."""
        return measured is not None and abs(measured - self.value) <= self.tolerance


@dataclass(frozen=True, slots=True)
class Case:
    """A study to send, and what is to come of it."""

    title: str
    study_instance_uid: str
    path: Path
    instances: int
    known: tuple[Known, ...]
    origin: str
    """Where the known values come from."""
    documents: tuple[DocumentKind, ...]


def chest_ct(folder: Path) -> Case:
    """Draw the chest phantom and write its images to a folder."""
    phantom = chest_phantom(slices=SLICES)
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(phantom.files, start=1):
        (folder / f"{number:03d}.dcm").write_bytes(content)
    truth = phantom.truth
    volume = truth.lung_volume_ml
    known = (
        Known("118565006", "lung volume", volume, "ml", 0.005 * volume),
        Known("112181", "mean lung density", truth.mean_lung_density_hu, "HU", 0.5),
        Known("LAA950", "LAA-950", truth.laa_950_percent, "%", 0.05),
    )
    return Case(
        title=f"chest CT phantom, {SLICES} slices of 512 x 512",
        study_instance_uid=phantom.study_instance_uid,
        path=folder,
        instances=SLICES,
        known=known,
        origin="counted voxel by voxel when the phantom was drawn",
        documents=_EVERY_KIND,
    )


_INTERVALS: Mapping[str, tuple[str, str, float, float]] = {
    # LOINC of our finding: the ECG machine's code (SCPECG), name, tolerance in ms, and relative
    "8637-1": ("5.10.2.1-3", "RR interval", 0.0, 0.01),
    "8625-6": ("5.13.5-7", "PR interval", 20.0, 0.0),
    "8633-0": ("5.13.5-9", "QRS duration", 25.0, 0.0),
    "8634-8": ("5.13.5-11", "QT interval", 25.0, 0.0),
}


def ecg() -> Case:
    """The 12-lead ECG of a real machine that ships with pydicom, and that machine's own
    measurements, read from the file (Waveform Annotation Sequence, PS3.3 C.10.10).

    Raises:
        RejectedError: pydicom's test file is not installed.
    """
    file = get_testdata_file("waveform_ecg.dcm")
    if not isinstance(file, str):
        raise RejectedError("pydicom's file waveform_ecg.dcm is not installed")
    dataset = pydicom.dcmread(file)
    machine = _annotations(dataset)
    known = tuple(
        Known(loinc, name, machine[code], "ms", tolerance + relative * machine[code])
        for loinc, (code, name, tolerance, relative) in _INTERVALS.items()
    )
    return Case(
        title="12-lead ECG of a real machine, 10 s",
        study_instance_uid=str(dataset.StudyInstanceUID),
        path=Path(file),
        instances=1,
        known=known,
        origin="measured by the ECG machine itself, stored in the file",
        documents=tuple(kind for kind in _EVERY_KIND if kind is not DocumentKind.SEG),
    )


def _annotations(dataset: Any) -> dict[str, float]:
    """Code value -> value in ms of the machine's own measurements."""
    found: dict[str, float] = {}
    for item in dataset.WaveformAnnotationSequence:
        names, units = item.get("ConceptNameCodeSequence"), item.get("MeasurementUnitsCodeSequence")
        if names and units and units[0].CodeValue == "ms" and item.get("NumericValue") is not None:
            found[str(names[0].CodeValue)] = float(item.NumericValue)
    return found
