"""QIDO-RS and WADO-RS: what is found, and what it is given as."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from xml.etree import ElementTree as ET

import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from connectors.dicomweb import dicom_json
from hub.formats.dicom.header import split_part10
from tests.contracts.recording import dicom_file
from tests.dicomweb_server import DicomWebServer, dicomweb_server
from tests.unit.connectors.dicomweb.bodies import multipart, parts_of, stow

CT = "1.2.840.10008.5.1.4.1.1.2"
NATIVE = {ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian}
DICOM = 'multipart/related; type="application/dicom"'


def image(uid: str, study: str, syntax: str = ExplicitVRLittleEndian, **fields: object) -> bytes:
    """A CT of two frames of 4 x 2 pixels."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
        study,
        f"{study}.{fields.pop('series', 1)}",
    )
    dataset.StudyDate, dataset.StudyTime, dataset.Modality = "20260314", "103000", "CT"
    dataset.AccessionNumber, dataset.PatientID = "A1", "CANARY-1"
    dataset.PatientName = "Größe^Jörg"
    dataset.InstanceNumber, dataset.NumberOfFrames = 7, 2
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 2, 4, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation, dataset.PhotometricInterpretation = 0, "MONOCHROME2"
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)
    frames = [bytes(range(16)), bytes(range(100, 116))]
    if syntax == ExplicitVRBigEndian:
        frames = [
            b"".join(f[i + 1 : i + 2] + f[i : i + 1] for i in range(0, 16, 2)) for f in frames
        ]
    encapsulated = syntax == RLELossless
    dataset.PixelData = encapsulate(frames) if encapsulated else b"".join(frames)
    dataset["PixelData"].VR = "OB" if encapsulated else "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server() -> Iterator[DicomWebServer]:
    files = [
        image("1.2.1.1", "1.2.1"),
        image("1.2.1.2", "1.2.1", series=2, Modality="SR", SeriesDescription="Bericht & <Text>"),
        image("1.2.2.1", "1.2.2", RLELossless, PatientID="B 2", StudyDate="20250101"),
        image("1.2.3.1", "1.2.3", ExplicitVRBigEndian, PatientID="*"),
        image("1.2.4.1", "1.2.4", DeflatedExplicitVRLittleEndian),
        image("1.2.5.1", "1.2.5", ImplicitVRLittleEndian),
    ]
    with dicomweb_server(maximum_results=5) as running:
        assert stow(running.url, multipart(files)).status_code == 200
        yield running


def get(server: DicomWebServer, path: str, accept: str = "", **parameters: str) -> httpx.Response:
    headers = {"Accept": accept} if accept else {}
    return httpx.get(f"{server.url}{path}", params=parameters or None, headers=headers, timeout=20)


def found(answer: httpx.Response, tag: str = "0020000D") -> list[str]:
    return [] if answer.status_code == 204 else [m[tag]["Value"][0] for m in answer.json()]


# --- search -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "studies"),
    [
        ({"PatientID": "CANARY-1"}, {"1.2.1", "1.2.4", "1.2.5"}),
        ({"00100020": "B*"}, {"1.2.2"}),
        ({"PatientID": "? 2"}, {"1.2.2"}),
        ({"PatientID": "canary-1"}, set()),
        ({"PatientName": "grö*jörg"}, {"1.2.1", "1.2.2", "1.2.3", "1.2.4", "1.2.5"}),
        ({"PatientName": "Größe"}, set()),
        ({"StudyDate": "20250101"}, {"1.2.2"}),
        ({"StudyDate": "-20251231"}, {"1.2.2"}),
        ({"StudyDate": "20260101-20261231", "StudyInstanceUID": "1.2.1,1.2.2"}, {"1.2.1"}),
        ({"StudyDate": "20250102-", "StudyTime": "1030", "PatientID": "*"},
         {"1.2.1", "1.2.3", "1.2.4", "1.2.5"}),
        ({"ModalitiesInStudy": "SR"}, {"1.2.1"}),
        ({"StudyInstanceUID": "1.2.1\\1.2.4"}, {"1.2.1", "1.2.4"}),
        ({"AccessionNumber": "A2"}, set()),
    ],
)  # fmt: skip
def test_studies_are_matched(
    server: DicomWebServer, parameters: dict[str, str], studies: set[str]
) -> None:
    answer = get(server, "/studies", **parameters)
    assert set(found(answer)) == studies
    assert answer.status_code == (200 if studies else 204)


def test_an_encoded_asterisk_is_a_wildcard(server: DicomWebServer) -> None:
    answer = httpx.get(f"{server.url}/studies?PatientID=CANARY%2A")
    assert len(found(answer)) == 3


def test_a_study_has_the_attributes_that_the_standard_requires(server: DicomWebServer) -> None:
    (model,) = get(server, "/studies", StudyInstanceUID="1.2.1").json()
    required = {
        *("00080020", "00080030", "00080050", "00080056", "00080061", "00080090", "00081190"),
        *("00100010", "00100020", "00100030", "00100040", "0020000D", "00200010", "00201206"),
        "00201208",
    }
    assert required <= set(model)
    assert model["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Größe^Jörg"}]}
    assert model["00080061"]["Value"] == ["CT", "SR"]
    assert (model["00201206"]["Value"], model["00201208"]["Value"]) == ([2], [2])
    assert model["00081190"]["Value"] == [f"{server.url}/studies/1.2.1"]
    assert model["00100040"] == {"vr": "CS"}


def test_series_and_instances_of_a_study(server: DicomWebServer) -> None:
    series = get(server, "/studies/1.2.1/series")
    assert found(series, "0020000E") == ["1.2.1.1", "1.2.1.2"]
    assert series.json()[0]["00201209"]["Value"] == [1]
    assert found(get(server, "/studies/1.2.1/series", Modality="SR"), "0020000E") == ["1.2.1.2"]
    assert found(get(server, "/studies/1.2.1/instances"), "00080018") == ["1.2.1.1", "1.2.1.2"]
    (one,) = get(server, "/studies/1.2.1/series/1.2.1.2/instances").json()
    assert (one["00080018"]["Value"], one["00280010"]["Value"]) == (["1.2.1.2"], [2])
    assert one["00200013"]["Value"] == [7]
    assert get(server, "/studies/9.9/series").status_code == 204


def test_series_and_instances_of_all_studies(server: DicomWebServer) -> None:
    (series,) = get(server, "/series", Modality="SR").json()
    assert series["00100020"]["Value"] == ["CANARY-1"]
    assert found(get(server, "/instances", SOPInstanceUID="1.2.2.1"), "00080018") == ["1.2.2.1"]
    assert found(get(server, "/series", PatientID="B 2", Modality="CT")) == ["1.2.2"]


def test_results_are_paged(server: DicomWebServer) -> None:
    everything = found(get(server, "/studies"))
    first, second = (
        get(server, "/studies", limit="2"),
        get(server, "/studies", limit="2", offset="2"),
    )
    assert found(first) + found(second) == everything[:4]
    assert "There are more" in first.headers["warning"]
    assert "warning" not in get(server, "/studies").headers
    assert len(found(get(server, "/instances", limit="100"))) == 5
    assert "There are more" in get(server, "/instances", limit="100").headers["warning"]


def test_fuzzy_matching_is_refused_with_a_warning(server: DicomWebServer) -> None:
    answer = get(server, "/studies", PatientName="Groesse*", fuzzymatching="true")
    assert answer.status_code == 204
    assert answer.headers["warning"].startswith("299 ")


@pytest.mark.parametrize(
    "query",
    ["PatietID=1", "limit=-1", "limit=x", "offset=1e9", "StudyDate=today", "StudyDate=1-2-3",
     "Modality=CT", "PixelSpacing=1", "PatientID=" + "x" * 2000, "&".join(["PatientID=1"] * 300)],
)  # fmt: skip
def test_a_query_that_cannot_be_answered_is_refused(server: DicomWebServer, query: str) -> None:
    answer = httpx.get(f"{server.url}/studies?{query}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


def test_results_can_be_xml(server: DicomWebServer) -> None:
    answer = get(server, "/studies/1.2.1/series", 'multipart/related; type="application/dicom+xml"')
    parts = parts_of(answer)
    assert len(parts) == 2
    root = ET.fromstring(parts[1][1])  # noqa: S314 - our own document
    space = {"d": "http://dicom.nema.org/PS3.19/models/NativeDICOM"}
    description = root.find("d:DicomAttribute[@keyword='SeriesDescription']/d:Value", space)
    assert description is not None
    assert description.text == "Bericht & <Text>"


@pytest.mark.parametrize(
    ("accept", "status"),
    [("", 200), ("application/json", 200), ("image/png, */*;q=0.1", 200), ("image/png", 406),
     ("application/dicom+json;q=0", 406), ("gibberish", 400), ("a/b," * 2000, 400)],
)  # fmt: skip
def test_what_the_client_accepts_decides(server: DicomWebServer, accept: str, status: int) -> None:
    assert get(server, "/studies", accept).status_code == status


def test_the_accept_parameter_goes_before_the_header(server: DicomWebServer) -> None:
    answer = get(server, "/studies?accept=application/dicom%2Bjson", "image/png")
    assert answer.headers["content-type"] == "application/dicom+json"


# --- retrieve -------------------------------------------------------------------------------------


def test_a_study_is_given_as_it_is_stored(server: DicomWebServer) -> None:
    for study in ("1.2.1", "1.2.2", "1.2.3", "1.2.4", "1.2.5"):
        answer = get(server, f"/studies/{study}", f"{DICOM}; transfer-syntax=*")
        stored = [i for i in server.intake.stored if i.sop_instance_uid.startswith(study)]
        parts = parts_of(answer)
        assert [split_part10(c)[1] for _, c in parts] == [bytes(i.data_set) for i in stored]
        syntaxes = [head["content-type"].partition("transfer-syntax=")[2] for head, _ in parts]
        assert syntaxes == [i.transfer_syntax_uid for i in stored]


def test_without_a_transfer_syntax_it_is_explicit_little_endian_or_not_acceptable(
    server: DicomWebServer,
) -> None:
    statuses = {s: get(server, f"/studies/{s}", DICOM) for s in ("1.2.1", "1.2.4", "1.2.5")}
    for study, answer in statuses.items():
        assert answer.status_code == 200
        dataset = pydicom.dcmread(io.BytesIO(parts_of(answer)[0][1]))
        assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert (dataset.StudyInstanceUID, str(dataset.PatientName)) == (study, "Größe^Jörg")
        assert dataset.PixelData[:4] == b"\x00\x01\x02\x03"
    assert get(server, "/studies/1.2.2", DICOM).status_code == 406
    assert get(server, "/studies/1.2.3", DICOM).status_code == 406
    assert get(server, "/studies/1.2.2").status_code == 200


def test_one_instance_can_be_had_without_multipart(server: DicomWebServer) -> None:
    answer = get(server, "/studies/1.2.1/series/1.2.1.1/instances/1.2.1.1", "application/dicom")
    assert answer.headers["content-type"] == "application/dicom"
    assert pydicom.dcmread(io.BytesIO(answer.content)).SOPInstanceUID == "1.2.1.1"


def test_metadata_has_all_but_the_bulk_data(server: DicomWebServer) -> None:
    path = "/studies/1.2.2/series/1.2.2.1/instances/1.2.2.1"
    (model,) = get(server, f"{path}/metadata").json()
    assert model["7FE00010"] == {"vr": "OB", "BulkDataURI": f"{server.url}{path}/bulkdata/7FE00010"}
    assert model["00080005"]["Value"] == ["ISO_IR 192"]
    assert model["00100010"]["Value"] == [{"Alphabetic": "Größe^Jörg"}]
    assert "00020010" not in model
    assert len(get(server, "/studies/1.2.1/metadata").json()) == 2
    xml = get(server, f"{path}/metadata", "application/dicom+xml")
    assert f'<BulkData uri="{server.url}{path}/bulkdata/7FE00010"/>'.encode() in xml.content


@pytest.mark.parametrize("study", ["1.2.1", "1.2.3", "1.2.4", "1.2.5"])
def test_frames_of_native_pixels_are_little_endian_octets(
    server: DicomWebServer, study: str
) -> None:
    path = f"/studies/{study}/series/{study}.1/instances/{study}.1/frames"
    answer = get(server, f"{path}/2,1", 'multipart/related; type="application/octet-stream"')
    assert [content for _, content in parts_of(answer)] == [
        bytes(range(100, 116)),
        bytes(range(16)),
    ]


def test_encapsulated_frames_are_given_as_they_lie(server: DicomWebServer) -> None:
    path = "/studies/1.2.2/series/1.2.2.1/instances/1.2.2.1/frames/2"
    ((head, content),) = parts_of(get(server, path))
    assert head["content-type"] == "image/dicom-rle; transfer-syntax=1.2.840.10008.1.2.5"
    assert content == bytes(range(100, 116))
    octets = 'multipart/related; type="application/octet-stream"'
    assert get(server, path, octets).status_code == 406
    assert get(server, path, f"{octets}; transfer-syntax=*").status_code == 200


def test_bulk_data_can_be_had_by_its_uri(server: DicomWebServer) -> None:
    path = "/studies/1.2.1/series/1.2.1.1/instances/1.2.1.1/bulkdata"
    answer = get(server, f"{path}/7FE00010", "application/octet-stream")
    assert answer.content == bytes(range(16)) + bytes(range(100, 116))
    for wrong in ("00280010", "7FE00010/0/00080018", "7FE0", "99999999", "0040A730/0"):
        assert get(server, f"{path}/{wrong}").status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/studies/9.9", 404),
        ("/studies/1.2.1/series/9.9", 404),
        ("/studies/1.2.1/series/1.2.1.1/instances/9.9", 404),
        ("/studies/1.2.1/series/1.2.1.1/instances/1.2.1.1/frames/3", 404),
        ("/studies/1.2.1/series/1.2.1.1/instances/1.2.1.1/frames/0", 400),
        ("/studies/1.2.1/series/1.2.1.1/instances/1.2.1.1/frames/x", 400),
        ("/studies/1.2.1/series/1.2.1.1/instances/1.2.1.1/rendered", 404),
        ("/studies/1.2.1/frames/1", 404),
        ("/studies/1.2.1/instances/1.2.1.1", 404),
        ("/studies/%2e%2e%2fetc", 400),
        ("/studies/1.2.1%00", 400),
        ("/nothing", 404),
        ("/", 404),
    ],
)
def test_what_is_not_there_is_told(server: DicomWebServer, path: str, status: int) -> None:
    answer = get(server, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_head_has_the_headers_alone(server: DicomWebServer) -> None:
    answer = httpx.head(f"{server.url}/studies/1.2.1")
    assert (answer.status_code, answer.content) == (200, b"")


def test_an_instance_that_cannot_be_read_is_told_as_far_as_it_is_indexed(
    server: DicomWebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.holdings, "read", lambda location: b"damaged")
    (model,) = get(server, "/studies/1.2.5/metadata").json()
    assert model["00080018"]["Value"] == ["1.2.5.1"]
    assert (
        get(server, "/studies/1.2.5/series/1.2.5.1/instances/1.2.5.1/frames/1").status_code == 406
    )


def _longer(_: bytes) -> bytes:
    return image("1.2.4.1", "1.2.4", DeflatedExplicitVRLittleEndian, PatientComments="x" * 9999)


def _corrupt(file: bytes) -> bytes:
    return file[:-40] + bytes(40)


@pytest.mark.parametrize("changed", [_longer, _corrupt])
def test_a_deflated_object_that_cannot_be_read_is_told_as_far_as_it_is_indexed(
    server: DicomWebServer, monkeypatch: pytest.MonkeyPatch, changed: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(dicom_json, "_MOST_INFLATED", 5000)
    (whole,) = get(server, "/studies/1.2.4/metadata").json()
    assert "00280101" in whole  # BitsStored is not indexed
    read = server.holdings.read
    monkeypatch.setattr(server.holdings, "read", lambda location: changed(read(location)))
    (model,) = get(server, "/studies/1.2.4/metadata").json()
    assert model["00080018"]["Value"] == ["1.2.4.1"]
    assert "00280101" not in model
    frames = get(server, "/studies/1.2.4/series/1.2.4.1/instances/1.2.4.1/frames/1")
    assert frames.status_code == 406


def test_a_lost_segment_is_a_fault_of_the_hub(server: DicomWebServer) -> None:
    server.holdings.unreadable = True
    try:
        answer = get(server, "/studies/1.2.1")
    finally:
        server.holdings.unreadable = False
    assert (answer.status_code, answer.json()["status"]) == (500, 500)


def test_nothing_can_be_read_where_only_storing_is_offered() -> None:
    with dicomweb_server(read=False, path="/in") as server:
        data_set = stow(server.url, multipart([dicom_file("1.2.1")])).json()
        assert "00081190" not in data_set
        assert get(server, "/studies").status_code == 404


def test_inline_binary_and_nested_bulk_data(server: DicomWebServer) -> None:
    inner = Dataset()
    inner.WaveformData = bytes(2000)
    inner["WaveformData"].VR = "OW"
    file = image("1.2.6.1", "1.2.6", WaveformSequence=[inner], ICCProfile=b"short!")
    stow(server.url, multipart([file]))
    path = "/studies/1.2.6/series/1.2.6.1/instances/1.2.6.1"
    (model,) = get(server, f"{path}/metadata").json()
    assert base64.b64decode(model["00282000"]["InlineBinary"]) == b"short!"
    uri = model["54000100"]["Value"][0]["54001010"]["BulkDataURI"]
    assert httpx.get(uri, headers={"Accept": "application/octet-stream"}).content == bytes(2000)
    server.intake.receptions.pop()
