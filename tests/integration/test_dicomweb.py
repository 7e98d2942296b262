"""DICOMweb with peers of other makers: dicomweb-client, curl and Orthanc's DICOMweb plugin."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom.errors import InvalidDicomError

from hub.formats.dicom.header import split_part10
from tests.dicomweb_server import DicomWebServer, dicomweb_server
from tests.peers.orthanc import Orthanc
from tests.unit.connectors.dicomweb.bodies import multipart, parts_of, stow

pytestmark = pytest.mark.peers

ANY = (("application/dicom", "*"),)


@pytest.fixture
def server() -> Iterator[DicomWebServer]:
    with dicomweb_server() as running:
        yield running


@pytest.fixture
def client(server: DicomWebServer) -> DICOMwebClient:
    return DICOMwebClient(server.url)


@pytest.fixture(scope="session")
def head(shared_data: Path) -> list[Path]:
    return sorted((shared_data / "dicom" / "ct-head-ge-tilt").glob("*.dcm"))


@pytest.fixture(scope="session")
def chest(shared_data: Path) -> Path:
    """One slice, JPEG 2000."""
    folder = shared_data / "dicom" / "ct-chest-one-slice-all-syntaxes"
    (path,) = folder.glob("*_1.2.840.10008.1.2.4.90.dcm")
    return path


def digest(file: bytes) -> str:
    return hashlib.sha256(split_part10(file)[1]).hexdigest()


def dicom_files(folder: Path) -> list[bytes]:
    """Every DICOM file below a folder, but the abdomen: its UIDs were removed from it."""
    found: list[bytes] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            try:
                dataset = pydicom.dcmread(path, stop_before_pixels=True)
            except InvalidDicomError:
                continue
            if dataset.get("SOPInstanceUID"):
                found.append(path.read_bytes())
    return found


def test_all_test_data_comes_back_byte_for_byte(server: DicomWebServer, shared_data: Path) -> None:
    files = dicom_files(shared_data / "dicom")
    assert len(files) > 50
    for start in range(0, len(files), 10):
        assert stow(server.url, multipart(files[start : start + 10])).status_code == 200
    assert sorted(hashlib.sha256(i.data_set).hexdigest() for i in server.intake.stored) == sorted(
        map(digest, files)
    )
    given: list[str] = []
    for study in {i.study_instance_uid for i in server.holdings._all()}:
        accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        answer = httpx.get(f"{server.url}/studies/{study}", headers=accept, timeout=60)
        given += [digest(content) for _, content in parts_of(answer)]
    assert sorted(given) == sorted(map(digest, files))


def test_metadata_of_all_test_data(server: DicomWebServer, shared_data: Path) -> None:
    files = dicom_files(shared_data / "dicom")
    assert stow(server.url, multipart(files)).status_code == 200
    seen = 0
    for study in {i.study_instance_uid for i in server.holdings._all()}:
        for model in httpx.get(f"{server.url}/studies/{study}/metadata", timeout=120).json():
            dataset = pydicom.Dataset.from_json(model, bulk_data_uri_handler=lambda uri: b"")
            assert dataset.StudyInstanceUID == study
            assert len(model) > 15
            seen += 1
    assert seen == len(files)


def test_dicomweb_client_stores_searches_and_retrieves(
    server: DicomWebServer, client: DICOMwebClient, head: list[Path]
) -> None:
    datasets = [pydicom.dcmread(path) for path in head[:5]]
    study, series = datasets[0].StudyInstanceUID, datasets[0].SeriesInstanceUID
    answer = client.store_instances(datasets, study_instance_uid=study)
    assert len(answer.ReferencedSOPSequence) == 5
    assert "FailedSOPSequence" not in answer

    (found,) = client.search_for_studies(
        search_filters={"StudyInstanceUID": study, "PatientID": "*"}
    )
    assert found["00201208"]["Value"] == [5]
    assert len(client.search_for_series(study, search_filters={"Modality": "CT"})) == 1
    assert len(client.search_for_instances(study, series, limit=3)) == 3
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []

    given = client.retrieve_study(study, media_types=ANY)
    assert {d.SOPInstanceUID for d in given} == {d.SOPInstanceUID for d in datasets}
    by_uid = {d.SOPInstanceUID: d for d in datasets}
    assert all(d.PixelData == by_uid[d.SOPInstanceUID].PixelData for d in given)
    assert len(client.retrieve_series_metadata(study, series)) == 5


def test_dicomweb_client_retrieves_frames_and_bulk_data(
    server: DicomWebServer, client: DICOMwebClient, chest: Path
) -> None:
    dataset = pydicom.dcmread(chest)
    uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
    client.store_instances([dataset])
    frames = client.retrieve_instance_frames(
        *uids, frame_numbers=[1], media_types=(("image/jp2", "1.2.840.10008.1.2.4.90"),)
    )
    assert frames == [pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)]
    model = client.retrieve_instance_metadata(*uids)
    (value,) = client.retrieve_bulkdata(model["7FE00010"]["BulkDataURI"])
    assert value == frames[0]
    with pytest.raises(Exception, match="406"):
        client.retrieve_instance_frames(
            *uids, frame_numbers=[1], media_types=(("image/jls", "1.2.840.10008.1.2.4.80"),)
        )


def test_curl_sends_a_single_instance_with_expect(server: DicomWebServer, head: list[Path]) -> None:
    if shutil.which("curl") is None:
        pytest.fail("curl is needed")
    command = ["curl", "-sS", "-H", "Content-Type: application/dicom", "-H", "Expect: 100-continue"]
    command += ["--data-binary", f"@{head[0]}", "-w", "%{http_code}", f"{server.url}/studies"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert answer.stdout.endswith("200")
    assert (
        digest(head[0].read_bytes()) == hashlib.sha256(server.intake.stored[0].data_set).hexdigest()
    )


def test_orthanc_pushes_a_study_to_us(
    server: DicomWebServer, orthanc: Orthanc, head: list[Path]
) -> None:
    for path in head:
        httpx.post(f"{orthanc.http_url}/instances", content=path.read_bytes()).raise_for_status()
    peer = {"Url": f"{server.url}/", "ChunkedTransfers": True}
    httpx.put(f"{orthanc.http_url}/dicom-web/servers/hub", json=peer).raise_for_status()
    answer = httpx.post(
        f"{orthanc.http_url}/dicom-web/servers/hub/stow",
        json={"Resources": orthanc.instances(), "Synchronous": True},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    assert len(server.intake.stored) == len(head)
    assert {hashlib.sha256(i.data_set).hexdigest() for i in server.intake.stored} == {
        digest(path.read_bytes()) for path in head
    }


def test_searches_and_metadata_agree_with_orthanc(
    server: DicomWebServer, client: DICOMwebClient, orthanc: Orthanc, head: list[Path]
) -> None:
    files = [path.read_bytes() for path in head[:3]]
    assert stow(server.url, multipart(files)).status_code == 200
    assert stow(orthanc.dicomweb_url, multipart(files)).status_code == 200
    theirs = DICOMwebClient(orthanc.dicomweb_url)
    study = pydicom.dcmread(io.BytesIO(files[0])).StudyInstanceUID
    (ours_found,), (theirs_found,) = client.search_for_studies(), theirs.search_for_studies()
    common = set(ours_found) & set(theirs_found) - {"00081190", "00080056"}
    assert len(common) > 8
    for tag in common:
        assert ours_found[tag].get("Value") == theirs_found[tag].get("Value"), tag
    mine = {m["00080018"]["Value"][0]: m for m in client.retrieve_study_metadata(study)}
    for other in theirs.retrieve_study_metadata(study):
        own = mine[other["00080018"]["Value"][0]]
        different = {
            tag
            for tag in set(own) & set(other) - {"7FE00010", "00080005"}
            if own[tag].get("Value") != other[tag].get("Value")
        }
        assert different == set()
