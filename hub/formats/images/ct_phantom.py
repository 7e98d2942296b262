"""A chest CT that no patient ever had, with a known answer: for demonstrations and tests.

Every voxel comes from a formula, so the lung volume, the low-attenuation percentage and the
mean lung density are counted, not estimated. The same arguments give the same bytes.

Body, vertebra, trachea, table and two ellipsoid lungs with spherical emphysema are sharp-edged
(no partial volume) and carry bounded noise of +-12 HU that never crosses a threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from hub.domain.identity import PatientIdentity, derived_uid

FIELD_OF_VIEW_MM: Final = 358.4
"""Width of the image; 0.7 mm pixels at 512 columns."""
LOW_ATTENUATION_HU: Final = -950
PHANTOM_PATIENT: Final = PatientIdentity(
    patient_id="PHANTOM-CHEST",
    patient_name="PHANTOM^CHEST",
    patient_birth_date="19000101",
    patient_sex="O",
)

_AIR, _TABLE, _TISSUE, _BONE = -1000, 120, 40, 500
_LUNG, _EMPHYSEMA = -850, -980
_NOISE_HU = 12
_STORED_OFFSET = 1024

_BODY_MM = (165.0, 115.0)
_LUNG_CENTRES_MM = ((-72.0, -5.0, 0.0), (72.0, -5.0, 0.0))
_LUNG_SEMI_AXES_MM = (58.0, 82.0, 105.0)
_TRACHEA_MM = (0.0, 10.0, 9.0)
_VERTEBRA_MM = (0.0, 75.0, 22.0)
_TABLE_ROWS_MM = (128.0, 132.0)
_BULLAE_MM = (
    # lung, offset from its centre (x, y, z), radius
    (0, -10.0, -30.0, 60.0, 18.0),
    (0, 12.0, 30.0, 35.0, 14.0),
    (0, 0.0, 10.0, -30.0, 22.0),
    (0, -20.0, -15.0, 0.0, 12.0),
    (1, 10.0, -25.0, 55.0, 20.0),
    (1, -8.0, 35.0, -5.0, 16.0),
    (1, 15.0, 0.0, -60.0, 15.0),
)

Plane = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class PhantomTruth:
    """What a perfect reader would measure, counted on the voxel grid."""

    lung_volume_ml: float
    laa_950_percent: float
    """Share of lung voxels below -950 HU, 0 to 100."""
    mean_lung_density_hu: float


@dataclass(frozen=True, slots=True)
class ChestPhantom:
    """One series of CT Image Storage objects and its truth."""

    files: list[bytes] = field(repr=False)
    """Part 10 files (Explicit VR Little Endian), from feet to head."""
    truth: PhantomTruth
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]


@dataclass(slots=True)
class _Tally:
    """Lung voxels counted while the planes are drawn."""

    voxels: int = 0
    low_attenuation: int = 0
    sum_hu: int = 0

    def truth(self, voxel_ml: float) -> PhantomTruth:
        return PhantomTruth(
            lung_volume_ml=self.voxels * voxel_ml,
            laa_950_percent=100.0 * self.low_attenuation / self.voxels,
            mean_lung_density_hu=self.sum_hu / self.voxels,
        )


def chest_phantom(
    *,
    slices: int = 96,
    rows: int = 512,
    columns: int = 512,
    slice_spacing_mm: float = 2.5,
    seed: int = 1,
    study_instance_uid: str | None = None,
    patient: PatientIdentity = PHANTOM_PATIENT,
    accession_number: str = "",
    study_date: str = "20260101",
) -> ChestPhantom:
    """Draw and encode an axial chest CT centred on the middle of the lungs.

    Square pixels fill a field of view of 358.4 mm across; with ``rows`` smaller than
    ``columns`` the image is cropped. At 2.5 mm, 84 slices show the lungs whole; fewer show
    their middle, and the truth counts what is in view.

    Args:
        slices: number of images, at least 1.
        rows: image height in pixels.
        columns: image width in pixels.
        slice_spacing_mm: distance of neighbouring slices, also their thickness.
        seed: varies noise and the size of the emphysema; any integer.
        study_instance_uid: by default derived from all other arguments.
        patient: whom the images are labelled with.
        accession_number: may be empty.
        study_date: DICOM DA.

    Raises:
        ValueError: no slice, or an image too small (below 64 pixels) to show the anatomy.
    """
    if slices < 1 or min(rows, columns) < _SMALLEST_IMAGE:
        raise ValueError("a phantom has at least one slice of at least 64 x 64 pixels")
    study = study_instance_uid or derived_uid(
        "ct-phantom",
        *(str(part) for part in (slices, rows, columns, slice_spacing_mm, seed)),
        *(patient.patient_id, patient.issuer_of_patient_id, accession_number, study_date),
    )
    series = derived_uid("ct-phantom-series", study)
    uids = tuple(derived_uid("ct-phantom-image", study, str(n + 1)) for n in range(slices))
    template = _template(rows, columns, slice_spacing_mm, study, series)
    template.update(_identification(patient, accession_number, study_date))
    tally = _Tally()
    planes = _planes((slices, rows, columns), slice_spacing_mm, seed, tally)
    files = [
        _encode(template, uid, number, position, plane)
        for (number, position, plane), uid in zip(planes, uids, strict=True)
    ]
    pixel = FIELD_OF_VIEW_MM / columns
    truth = tally.truth(pixel * pixel * slice_spacing_mm / 1000.0)
    return ChestPhantom(files, truth, study, series, uids)


_SMALLEST_IMAGE = 64

# --- drawing -----------------------------------------------------------------------------


def _planes(
    shape: tuple[int, int, int], spacing: float, seed: int, tally: _Tally
) -> Iterator[tuple[int, tuple[float, float, float], Plane]]:
    """Instance number, position of the first voxel in mm, and HU of each slice, feet first."""
    slices, rows, columns = shape
    pixel = FIELD_OF_VIEW_MM / columns
    x = ((np.arange(columns) - (columns - 1) / 2) * pixel).astype(np.float32)[None, :]
    y = ((np.arange(rows) - (rows - 1) / 2) * pixel).astype(np.float32)[:, None]
    background, noise = _background(x, y), _noise(rows, columns, seed)
    bulla_scale = 0.85 + 0.3 * ((seed * 2654435761) % 97) / 96
    for index in range(slices):
        z = (index - (slices - 1) / 2) * spacing
        plane = background.copy()
        lung, emphysema = _lungs(x, y, z, bulla_scale)
        plane[lung] = _LUNG
        plane[emphysema] = _EMPHYSEMA
        # Rolling by coprime steps makes neighbouring slices differ at next to no cost.
        plane += np.roll(noise, (index * 37, index * 53), axis=(0, 1))
        np.maximum(plane, -_STORED_OFFSET, out=plane)
        inside = plane[lung]
        tally.voxels += inside.size
        tally.low_attenuation += int(np.count_nonzero(inside < LOW_ATTENUATION_HU))
        tally.sum_hu += int(inside.sum(dtype=np.int64))
        yield index + 1, (float(x[0, 0]), float(y[0, 0]), z), plane


def _background(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> Plane:
    """Everything that is the same in each slice, in HU."""
    plane = np.full((y.size, x.size), _AIR, dtype=np.int16)
    plane[(x / _BODY_MM[0]) ** 2 + (y / _BODY_MM[1]) ** 2 <= 1.0] = _TISSUE
    for (centre_x, centre_y, radius), value in ((_VERTEBRA_MM, _BONE), (_TRACHEA_MM, _AIR)):
        plane[(x - centre_x) ** 2 + (y - centre_y) ** 2 <= radius**2] = value
    table = (y[:, 0] >= _TABLE_ROWS_MM[0]) & (y[:, 0] <= _TABLE_ROWS_MM[1])
    plane[table] = _TABLE
    return plane


def _lungs(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], z: float, bulla_scale: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Masks of the lungs and of the emphysema in them at height z."""
    lung = np.zeros((y.size, x.size), dtype=np.bool_)
    emphysema = np.zeros_like(lung)
    semi_x, semi_y, semi_z = _LUNG_SEMI_AXES_MM
    for centre_x, centre_y, centre_z in _LUNG_CENTRES_MM:
        rest = 1.0 - ((z - centre_z) / semi_z) ** 2
        lung |= ((x - centre_x) / semi_x) ** 2 + ((y - centre_y) / semi_y) ** 2 <= rest
    for side, offset_x, offset_y, offset_z, radius in _BULLAE_MM:
        centre = _LUNG_CENTRES_MM[side]
        rest = (radius * bulla_scale) ** 2 - (z - centre[2] - offset_z) ** 2
        if rest > 0:
            dx, dy = x - centre[0] - offset_x, y - centre[1] - offset_y
            emphysema |= dx**2 + dy**2 <= rest
    return lung, emphysema & lung


def _noise(rows: int, columns: int, seed: int) -> Plane:
    """Bounded integer noise from a hash of the position: the same with every numpy release."""
    position = np.arange(rows * columns, dtype=np.uint64)
    state = position * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed % 2**64)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values = (state >> np.uint64(33)) % np.uint64(2 * _NOISE_HU + 1)
    return (values.astype(np.int16) - _NOISE_HU).reshape(rows, columns)


# --- encoding (PS3.3 A.3, CT Image IOD) ----------------------------------------------------


def _template(rows: int, columns: int, spacing: float, study: str, series: str) -> Dataset:
    """What all images of the series share."""
    pixel = FIELD_OF_VIEW_MM / columns
    image = Dataset()
    image.SOPClassUID = CTImageStorage
    image.StudyInstanceUID = study
    image.SeriesInstanceUID = series
    image.FrameOfReferenceUID = derived_uid("ct-phantom-frame", study)
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.Modality = "CT"
    image.Manufacturer = "CAIDX"
    image.ManufacturerModelName = "Chest phantom"
    image.StudyDescription = "Chest phantom"
    image.SeriesDescription = "Chest phantom, axial"
    image.StudyID = "1"
    image.SeriesNumber = 1
    image.AcquisitionNumber = 1
    image.BodyPartExamined = "CHEST"
    image.PatientPosition = "HFS"
    image.PositionReferenceIndicator = ""
    image.KVP = "120"
    image.SliceThickness = f"{spacing:g}"
    image.SpacingBetweenSlices = f"{spacing:g}"
    image.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    image.PixelSpacing = [f"{pixel:.10g}", f"{pixel:.10g}"]
    image.Rows = rows
    image.Columns = columns
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated = 16
    image.BitsStored = 12
    image.HighBit = 11
    image.PixelRepresentation = 0
    image.RescaleIntercept = str(-_STORED_OFFSET)
    image.RescaleSlope = "1"
    image.RescaleType = "HU"
    image.WindowCenter = "-600"
    image.WindowWidth = "1500"
    return image


def _identification(patient: PatientIdentity, accession_number: str, study_date: str) -> Dataset:
    """Patient and study modules."""
    names = Dataset()
    names.SpecificCharacterSet = "ISO_IR 192"
    names.PatientName = patient.patient_name
    names.PatientID = patient.patient_id
    if patient.issuer_of_patient_id:
        names.IssuerOfPatientID = patient.issuer_of_patient_id
    names.PatientBirthDate = patient.patient_birth_date
    names.PatientSex = patient.patient_sex
    names.AccessionNumber = accession_number
    names.ReferringPhysicianName = ""
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(names, keyword, study_date)
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(names, keyword, "120000")
    return names


def _encode(
    template: Dataset, uid: str, number: int, position: tuple[float, float, float], plane: Plane
) -> bytes:
    """One Part 10 file (PS3.10)."""
    image = template
    image.SOPInstanceUID = uid
    image.InstanceNumber = number
    image.ImagePositionPatient = [f"{value:.10g}" for value in position]
    image.SliceLocation = f"{position[2]:.10g}"
    stored = (plane + np.int16(_STORED_OFFSET)).astype("<u2")
    image.PixelData = stored.tobytes()
    image["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(derived_uid("ct-phantom-implementation"))
    meta.ImplementationVersionName = "CAIDX_PHANTOM_1"
    image.file_meta = meta
    buffer = BytesIO()
    dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue()
