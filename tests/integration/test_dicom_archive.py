"""Archives asked by DICOM: DCMTK's dcmqrscp and Orthanc answer C-FIND, C-MOVE and C-GET."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, HTJ2KLossless, JPEGLSLossless
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as Get
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as Move

from connectors.dicom.archive import DicomArchive
from connectors.dicom.archive_config import DicomArchiveConfig
from hub.errors import RejectedError, TransientError
from hub.formats.dicom.part10 import split_part10
from hub.ports import ArchiveContext, EndOfTransfer, StudyQuery
from tests.integration.archives import (
    CT_IMAGE_STORAGE,
    OTHER_STUDY,
    PATIENT_ID,
    SECOND_SERIES,
    SERIES,
    STUDY,
    KeepingIntake,
    WallClock,
    ct_image,
    storage_scp,
    write_image,
    write_studies,
)
from tests.peers import free_port
from tests.peers.dcmqrscp import Dcmqrscp
from tests.peers.dcmtk import dcmsend, storescu
from tests.peers.orthanc import Orthanc, orthanc

pytestmark = pytest.mark.peers
PRIVATE_CLASS = "1.2.826.0.1.3680043.8.498.99"
__all__ = ["orthanc"]


def archive(port: int, ae_title: str, intake: KeepingIntake, **options: Any) -> DicomArchive:
    config = DicomArchiveConfig(host="127.0.0.1", port=port, ae_title=ae_title, **options)
    return DicomArchive(config, ArchiveContext("pacs", intake, WallClock()))


@pytest.fixture
def intake() -> KeepingIntake:
    return KeepingIntake()


@pytest.fixture
def mover(intake: KeepingIntake) -> Iterator[int]:
    with storage_scp(intake) as port:
        yield port


@pytest.fixture
def dcmqrscp(tmp_path: Path, mover: int) -> Iterator[Dcmqrscp]:
    peer = Dcmqrscp(tmp_path / "dcmqrscp", {"CAIDX": mover})
    peer.start()
    storescu(write_studies(tmp_path / "files"), peer.port, aec=peer.ae_title)
    yield peer
    peer.stop()


@pytest.fixture
def full_orthanc(orthanc: Orthanc, tmp_path: Path, mover: int) -> Orthanc:
    storescu(write_studies(tmp_path / "files"), orthanc.dicom_port, aec=orthanc.ae_title)
    body = {"AET": "CAIDX", "Host": "127.0.0.1", "Port": mover}
    httpx.put(f"{orthanc.http_url}/modalities/caidx", json=body).raise_for_status()
    return orthanc


# --- dcmqrscp --------------------------------------------------------------------------------


def test_dcmqrscp_tells_of_its_studies(dcmqrscp: Dcmqrscp, intake: KeepingIntake) -> None:
    asked = archive(dcmqrscp.port, dcmqrscp.ae_title, intake)
    (study,) = asked.find_studies(StudyQuery(patient_id=PATIENT_ID), 10)
    assert (study.study_instance_uid, study.study_date) == (STUDY, "20250314")
    assert study.patient_birth_date == "19580217"
    assert {s.series_instance_uid for s in asked.find_series(STUDY)} == {SERIES, SECOND_SERIES}
    assert asked.find_instances(STUDY) == {
        **{f"{SERIES}.{n}": SERIES for n in (1, 2, 3)},
        **{f"{SECOND_SERIES}.{n}": SECOND_SERIES for n in (1, 2)},
    }


def test_a_wildcard_in_a_patient_id_finds_nobody_else(
    dcmqrscp: Dcmqrscp, intake: KeepingIntake
) -> None:
    asked = archive(dcmqrscp.port, dcmqrscp.ae_title, intake)
    assert asked.find_studies(StudyQuery(patient_id="CANARY-1*"), 10) == []
    assert asked.find_studies(StudyQuery(patient_id="CANARY-1?"), 10) == []


def test_no_more_answers_are_taken_than_asked_for(
    dcmqrscp: Dcmqrscp, intake: KeepingIntake
) -> None:
    asked = archive(dcmqrscp.port, dcmqrscp.ae_title, intake)
    assert len(asked.find_studies(StudyQuery(), 10)) == 2
    assert len(asked.find_studies(StudyQuery(), 1)) == 1


@pytest.mark.parametrize("retrieve", ["c-move", "c-get"])
def test_a_study_arrives_byte_by_byte(
    dcmqrscp: Dcmqrscp, intake: KeepingIntake, tmp_path: Path, retrieve: str
) -> None:
    asked = archive(dcmqrscp.port, dcmqrscp.ae_title, intake, retrieve=retrieve)
    asked.retrieve(STUDY, within=30)
    sent = {
        file.name.removesuffix(".dcm"): split_part10(file.read_bytes())[1]
        for file in (tmp_path / "files").glob(f"{STUDY}*")
    }
    assert intake.data_sets == sent
    if retrieve == "c-get":
        assert intake.ends == [EndOfTransfer.RELEASED]
        assert {r.sender.source for r in intake.receptions} == {"pacs"}


@pytest.mark.parametrize("retrieve", ["c-move", "c-get"])
def test_a_part_of_a_study_arrives_alone(
    dcmqrscp: Dcmqrscp, intake: KeepingIntake, retrieve: str
) -> None:
    asked = archive(dcmqrscp.port, dcmqrscp.ae_title, intake, retrieve=retrieve)
    wanted = [f"{SERIES}.3", f"{SECOND_SERIES}.1"]
    asked.retrieve(STUDY, sop_instance_uids=wanted, within=30)
    assert intake.uids == set(wanted)
    asked.retrieve(STUDY, SECOND_SERIES, within=30)
    assert intake.uids == {*wanted, f"{SECOND_SERIES}.2"}


@pytest.mark.parametrize("retrieve", ["c-move", "c-get"])
def test_what_it_does_not_have_is_rejected(
    dcmqrscp: Dcmqrscp, intake: KeepingIntake, retrieve: str
) -> None:
    asked = archive(dcmqrscp.port, dcmqrscp.ae_title, intake, retrieve=retrieve)
    with pytest.raises(RejectedError, match="does not have"):
        asked.retrieve("1.2.3.4", within=30)
    with pytest.raises(RejectedError, match="does not have"):
        asked.retrieve(STUDY, sop_instance_uids=["1.2.3.4"], within=30)


def test_c_get_of_what_the_intake_cannot_take_is_not_a_success(
    dcmqrscp: Dcmqrscp, intake: KeepingIntake
) -> None:
    intake.errors[f"{SERIES}.2"] = TransientError("out of disk space")
    asked = archive(dcmqrscp.port, dcmqrscp.ae_title, intake, retrieve="c-get")
    with pytest.raises(TransientError, match=r"1 of \d instances: out of disk space"):
        asked.retrieve(STUDY, within=30)
    assert intake.ends == [EndOfTransfer.ABORTED]


@pytest.fixture
def mixed(tmp_path: Path) -> Iterator[Dcmqrscp]:
    """Two CT images of one series: one as it is, one in JPEG-LS."""
    plain, packed = (ct_image(f"{SERIES}.{n}", STUDY, SERIES, n) for n in (1, 2))
    pixels = np.frombuffer(packed.PixelData, "<u2").reshape(4, 4)
    packed.PixelData = encapsulate([bytes(imagecodecs.jpegls_encode(pixels))])
    packed["PixelData"].VR, packed["PixelData"].is_undefined_length = "OB", True
    files = [write_image(tmp_path, plain), write_image(tmp_path, packed, JPEGLSLossless)]
    peer = Dcmqrscp(tmp_path / "dcmqrscp", {}, ["+xt"])
    peer.start()
    dcmsend(files, peer.port, aec=peer.ae_title)
    yield peer
    peer.stop()


def test_c_get_takes_one_class_in_several_transfer_syntaxes(
    mixed: Dcmqrscp, intake: KeepingIntake
) -> None:
    archive(mixed.port, mixed.ae_title, intake, retrieve="c-get").retrieve(STUDY, within=30)
    (reception,) = intake.receptions
    assert {item.sop_instance_uid: item.transfer_syntax_uid for item, _ in reception.stored} == {
        f"{SERIES}.1": ExplicitVRLittleEndian,
        f"{SERIES}.2": JPEGLSLossless,
    }


def test_an_unknown_move_destination_is_rejected(dcmqrscp: Dcmqrscp, intake: KeepingIntake) -> None:
    asked = archive(dcmqrscp.port, dcmqrscp.ae_title, intake, move_destination="NOBODY")
    with pytest.raises(RejectedError, match="0xA801"):
        asked.retrieve(STUDY, within=30)


def test_it_is_checked_with_echo_and_contexts(dcmqrscp: Dcmqrscp, intake: KeepingIntake) -> None:
    answer = archive(dcmqrscp.port, dcmqrscp.ae_title, intake).check()
    assert "C-FIND and C-MOVE" in answer


# --- Orthanc ---------------------------------------------------------------------------------


def test_orthanc_counts_the_instances(full_orthanc: Orthanc, intake: KeepingIntake) -> None:
    asked = archive(full_orthanc.dicom_port, full_orthanc.ae_title, intake)
    (study,) = asked.find_studies(StudyQuery(study_instance_uid=STUDY), 1)
    assert study.number_of_instances == 5
    assert study.modalities_in_study == ("CT",)
    assert study.study_description == "CT Thorax"


@pytest.mark.parametrize("retrieve", ["c-move", "c-get"])
def test_orthanc_sends_a_study(full_orthanc: Orthanc, intake: KeepingIntake, retrieve: str) -> None:
    asked = archive(full_orthanc.dicom_port, full_orthanc.ae_title, intake, retrieve=retrieve)
    asked.retrieve(STUDY, within=60)
    assert len(intake.uids) == 5
    asked.retrieve(OTHER_STUDY, within=60)
    assert len(intake.uids) == 6


# --- peers that misbehave --------------------------------------------------------------------


def test_an_archive_that_is_down_is_transient(intake: KeepingIntake) -> None:
    asked = archive(free_port(), "NOBODY", intake)
    for ask in (
        lambda: asked.find_studies(StudyQuery(study_instance_uid=STUDY), 1),
        lambda: asked.retrieve(STUDY, within=5),
        asked.check,
    ):
        with pytest.raises(TransientError, match="cannot be reached"):
            ask()


def _slow_find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
    for _ in range(100):
        time.sleep(0.1)
        answer = Dataset()
        answer.StudyInstanceUID = STUDY
        yield 0xFF00, answer
    yield 0x0000, None


def _find_private(event: Any, refused: str) -> Iterator[tuple[int, Dataset | None]]:
    """One object of a private class, in HTJ2K; no answers at the level ``refused``."""
    answer = Dataset()
    answer.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
    if answer.QueryRetrieveLevel == refused:
        yield 0xA900, None
        return
    answer.StudyInstanceUID, answer.SeriesInstanceUID, answer.Modality = STUDY, SERIES, "CT"
    answer.SOPInstanceUID, answer.SOPClassUID = f"{SERIES}.1", PRIVATE_CLASS
    answer.AvailableTransferSyntaxUID = HTJ2KLossless
    yield 0xFF00, answer


@pytest.mark.parametrize(
    ("refused", "sop_class_uid", "most"),
    [("", PRIVATE_CLASS, 60), ("IMAGE", CT_IMAGE_STORAGE, 128), ("SERIES", CT_IMAGE_STORAGE, 128)],
)
def test_c_get_proposes_what_the_archive_says_it_has(
    intake: KeepingIntake, refused: str, sop_class_uid: str, most: int
) -> None:
    proposed: list[tuple[str, list[str]]] = []

    def get(event: Any) -> Iterator[Any]:
        contexts = event.assoc.requestor.requested_contexts
        proposed.extend((c.abstract_syntax, list(c.transfer_syntax)) for c in contexts)
        yield 0

    ae = AE(ae_title="STRANGE")
    ae.add_supported_context(Find)
    ae.add_supported_context(Get)
    handlers = [(evt.EVT_C_FIND, _find_private, [refused]), (evt.EVT_C_GET, get)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        asked = archive(server.socket.getsockname()[1], "STRANGE", intake, retrieve="c-get")
        with pytest.raises(RejectedError, match="does not have"):
            asked.retrieve(STUDY, within=10)
    finally:
        server.shutdown()
    assert sop_class_uid in dict(proposed)
    assert len(proposed) <= most
    if not refused:
        assert proposed[1] == (PRIVATE_CLASS, [HTJ2KLossless])  # the first after C-GET itself


def _refused_find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
    yield 0xA900, None


def _slow_move(event: Any) -> Iterator[Any]:
    yield "127.0.0.1", 9
    time.sleep(3)
    yield 0


@pytest.fixture
def strange(request: pytest.FixtureRequest) -> Iterator[int]:
    """A peer of pynetdicom with one handler of the test's own."""
    ae = AE(ae_title="STRANGE")
    ae.add_supported_context(Find)
    ae.add_supported_context(Move)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[request.param])
    yield server.socket.getsockname()[1]
    server.shutdown()


@pytest.mark.parametrize("strange", [(evt.EVT_C_FIND, _slow_find)], indirect=True)
def test_a_query_that_never_ends_is_given_up(strange: int, intake: KeepingIntake) -> None:
    asked = archive(strange, "STRANGE", intake, query_timeout=0.5)
    begun = time.monotonic()
    with pytest.raises(TransientError, match="in time"):
        asked.find_studies(StudyQuery(), 1000)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("strange", [(evt.EVT_C_FIND, _refused_find)], indirect=True)
def test_a_refused_query_is_rejected_with_its_status(strange: int, intake: KeepingIntake) -> None:
    with pytest.raises(RejectedError, match="0xA900"):
        archive(strange, "STRANGE", intake).find_studies(StudyQuery(), 10)


@pytest.mark.parametrize("strange", [(evt.EVT_C_MOVE, _slow_move)], indirect=True)
def test_a_move_that_takes_too_long_is_transient(strange: int, intake: KeepingIntake) -> None:
    begun = time.monotonic()
    with pytest.raises(TransientError):
        archive(strange, "STRANGE", intake).retrieve(STUDY, within=0.5)
    assert time.monotonic() - begun < 3
