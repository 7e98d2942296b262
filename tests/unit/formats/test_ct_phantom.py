"""The chest phantom: valid images, a truth that a fresh count confirms, the same bytes again."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from hub.domain.identity import PatientIdentity
from hub.formats.images.ct_phantom import ChestPhantom, chest_phantom
from tests.peers import find_tool


@pytest.fixture(scope="module")
def small() -> ChestPhantom:
    return chest_phantom(slices=8, rows=128, columns=128)


def opened(phantom: ChestPhantom) -> list[Dataset]:
    return [dcmread(BytesIO(file)) for file in phantom.files]


def test_the_same_arguments_give_the_same_bytes(small: ChestPhantom) -> None:
    again = chest_phantom(slices=8, rows=128, columns=128)
    assert again.files == small.files
    assert again.truth == small.truth


def test_another_seed_gives_other_pixels_and_another_truth(small: ChestPhantom) -> None:
    other = chest_phantom(slices=8, rows=128, columns=128, seed=2)
    assert other.truth != small.truth
    assert other.study_instance_uid != small.study_instance_uid
    assert opened(other)[0].PixelData != opened(small)[0].PixelData


def test_the_truth_agrees_with_the_formulas_of_ellipsoids_and_spheres() -> None:
    truth = chest_phantom(rows=256, columns=256, seed=1).truth
    lungs_ml = 2 * 4 / 3 * np.pi * 58 * 82 * 105 / 1000
    assert truth.lung_volume_ml == pytest.approx(lungs_ml, rel=0.002)
    scale = 0.85 + 0.3 * (2654435761 % 97) / 96
    bullae_ml = sum(4 / 3 * np.pi * (r * scale) ** 3 for r in (18, 14, 22, 12, 20, 16, 15)) / 1000
    assert truth.laa_950_percent == pytest.approx(100 * bullae_ml / lungs_ml, rel=0.02)
    expected_hu = -850 - 130 * truth.laa_950_percent / 100
    assert truth.mean_lung_density_hu == pytest.approx(expected_hu, abs=0.1)


def test_the_pixels_hold_the_truth(small: ChestPhantom) -> None:
    datasets = opened(small)
    hu = np.stack([d.pixel_array.astype(np.int32) + int(d.RescaleIntercept) for d in datasets])
    millimetres = (np.arange(128) - 63.5) * 2.8
    x, y = millimetres[None, :], millimetres[:, None]
    body = (x / 165) ** 2 + (y / 115) ** 2 < 1
    lung = (hu < -400) & body & (x**2 + (y - 10) ** 2 > 11**2)
    spacing = [float(value) for value in datasets[0].PixelSpacing]
    voxel_ml = spacing[0] * spacing[1] * float(datasets[0].SliceThickness) / 1000
    assert lung.sum() * voxel_ml == pytest.approx(small.truth.lung_volume_ml, rel=0.001)
    assert 100 * (hu[lung] < -950).mean() == pytest.approx(small.truth.laa_950_percent)
    assert hu[lung].mean() == pytest.approx(small.truth.mean_lung_density_hu)


def test_slices_lie_at_equal_distances_from_feet_to_head(small: ChestPhantom) -> None:
    depths = [float(d.ImagePositionPatient[2]) for d in opened(small)]
    assert np.diff(depths) == pytest.approx([2.5] * 7)
    assert sum(depths) == pytest.approx(0)


def test_study_and_patient_are_those_asked_for() -> None:
    patient = PatientIdentity("P-17", "TEST", "PHANTOM^SEVENTEEN", "19500101", "F")
    phantom = chest_phantom(
        slices=1,
        rows=64,
        columns=64,
        study_instance_uid="2.25.17",
        patient=patient,
        accession_number="A17",
    )
    (image,) = opened(phantom)
    assert image.StudyInstanceUID == phantom.study_instance_uid == "2.25.17"
    assert (image.PatientID, image.IssuerOfPatientID) == ("P-17", "TEST")
    assert (str(image.PatientName), image.AccessionNumber) == ("PHANTOM^SEVENTEEN", "A17")
    assert image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID
    assert (image.SOPInstanceUID,) == phantom.sop_instance_uids


def test_two_studies_share_no_identifier() -> None:
    first, second = (
        chest_phantom(slices=3, rows=64, columns=64, study_instance_uid=uid)
        for uid in ("2.25.1", "2.25.2")
    )
    assert first.series_instance_uid != second.series_instance_uid
    assert not set(first.sop_instance_uids) & set(second.sop_instance_uids)


def test_an_image_too_small_for_the_anatomy_is_refused() -> None:
    with pytest.raises(ValueError, match="64"):
        chest_phantom(slices=1, rows=32, columns=128)


def test_dciodvfy_finds_no_error(small: ChestPhantom, tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    for file in (small.files[0], small.files[-1]):
        path.write_bytes(file)
        checked = subprocess.run(
            [find_tool("dciodvfy", "dicom3tools"), path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Error" not in checked.stderr + checked.stdout
        assert "CTImage" in checked.stderr + checked.stdout
