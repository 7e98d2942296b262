"""Studies as files, ready to be sent: a phantom, an ECG, real series under new identifiers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from hub.domain.identity import PatientIdentity, derived_uid
from hub.formats.images.ct_phantom import PHANTOM_PATIENT, PhantomTruth, chest_phantom

CHEST_SLICE = "dicom/ct-chest-one-slice-all-syntaxes"
ABDOMEN = "dicom/ct-abdomen-totalsegmentator/example_ct_dicom"
HEAD = "dicom/ct-head-ge-tilt"
CT_SMALL = "CT_small.dcm"
"""One CT slice that ships with pydicom."""

Change = Callable[[Dataset], None]


@dataclass(frozen=True)
class StudyFiles:
    """One study on disk."""

    study_instance_uid: str
    files: tuple[Path, ...]

    @property
    def headers(self) -> list[Dataset]:
        """The data sets without their pixels."""
        return [pydicom.dcmread(file, stop_before_pixels=True) for file in self.files]


@dataclass(frozen=True)
class PhantomFiles(StudyFiles):
    truth: PhantomTruth


def phantom(
    folder: Path,
    *,
    seed: int = 1,
    slices: int = 8,
    patient: PatientIdentity = PHANTOM_PATIENT,
    accession_number: str = "",
) -> PhantomFiles:
    """A small chest CT with a known truth; each seed is a study of its own."""
    made = chest_phantom(
        slices=slices,
        rows=128,
        columns=128,
        slice_spacing_mm=5.0,
        seed=seed,
        patient=patient,
        accession_number=accession_number,
    )
    folder.mkdir(parents=True)
    files = []
    for number, content in enumerate(made.files):
        files.append(folder / f"{number:04}.dcm")
        files[-1].write_bytes(content)
    return PhantomFiles(made.study_instance_uid, tuple(files), made.truth)


def changed(study: StudyFiles | Iterable[Path], folder: Path, change: Change) -> tuple[Path, ...]:
    """Copies with another header. The pixel data stay byte for byte what they were."""
    folder.mkdir(parents=True)
    files = []
    for number, file in enumerate(study.files if isinstance(study, StudyFiles) else study):
        data_set = pydicom.dcmread(file)
        change(data_set)
        data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
        files.append(folder / f"{number:04}.dcm")
        data_set.save_as(files[-1], enforce_file_format=True)
    return tuple(files)


def as_new_study(
    files: Iterable[Path], folder: Path, *, name: str, **attributes: Any
) -> StudyFiles:
    """The same images as a study, series and instances of their own."""
    study, series = derived_uid("acceptance", name), derived_uid("acceptance", name, "series")

    def change(data_set: Dataset) -> None:
        number = str(data_set.InstanceNumber)
        data_set.SOPClassUID = data_set.file_meta.MediaStorageSOPClassUID
        data_set.SOPInstanceUID = derived_uid("acceptance", name, "instance", number)
        data_set.StudyInstanceUID, data_set.SeriesInstanceUID = study, series
        for keyword, value in attributes.items():
            setattr(data_set, keyword, value)

    return StudyFiles(study, changed(files, folder, change))


def abdomen(shared_data: Path, folder: Path) -> StudyFiles:
    """A real CT of the abdomen, 20 slices, JPEG 2000. It comes without identifiers."""
    files = sorted((shared_data / ABDOMEN).iterdir())
    return as_new_study(
        files,
        folder,
        name="abdomen",
        PatientID="ABDOMEN-1",
        PatientName="Bauch^Anna",
        PatientSex="F",
        StudyID="7",
        AccessionNumber="ACC-7",
    )


def ecg() -> StudyFiles:
    """A real 12-lead ECG with the machine's own measurements."""
    file = Path(str(get_testdata_file("waveform_ecg.dcm")))
    return StudyFiles(str(pydicom.dcmread(file).StudyInstanceUID), (file,))


def sample_data_set(file_name: str) -> Dataset:
    """The data set of a file that ships with pydicom."""
    return pydicom.dcmread(Path(str(get_testdata_file(file_name))))


def sample(file_name: str, folder: Path, *, name: str, **attributes: Any) -> StudyFiles:
    """A file that ships with pydicom, as a study of its own."""
    file = Path(str(get_testdata_file(file_name)))
    return as_new_study([file], folder, name=name, **attributes)
