"""The peers that other tests rely on are real, and keep what they acknowledged."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import httpx
import psycopg
import pydicom
import pytest
import sqlalchemy
from pydicom.data import get_testdata_file

from tests import peers
from tests.peers import dcmtk
from tests.peers.orthanc import Orthanc
from tests.peers.postgres import Postgres

pytestmark = pytest.mark.peers


@pytest.fixture
def ct_file() -> Path:
    return Path(str(get_testdata_file("CT_small.dcm")))


def store(orthanc: Orthanc, file: Path) -> None:
    dcmtk.storescu(file, orthanc.dicom_port, aec=orthanc.ae_title)


def pixels(part10: bytes) -> str:
    return hashlib.sha256(pydicom.dcmread(io.BytesIO(part10)).PixelData).hexdigest()


def test_orthanc_keeps_a_stored_object_over_stop_and_start(orthanc: Orthanc, ct_file: Path) -> None:
    store(orthanc, ct_file)
    orthanc.stop()
    with pytest.raises(httpx.ConnectError):
        orthanc.count("instances")
    orthanc.start()
    assert [orthanc.count("studies"), orthanc.count("instances")] == [1, 1]
    sent = pydicom.dcmread(ct_file)
    (instance,) = orthanc.instances(sent.StudyInstanceUID)
    assert orthanc.instances() == [instance]
    assert orthanc.tags(instance)["SOPInstanceUID"] == sent.SOPInstanceUID
    assert pixels(orthanc.file(instance)) == pixels(ct_file.read_bytes())


def test_orthanc_answers_echo_and_dicomweb(orthanc: Orthanc, ct_file: Path) -> None:
    dcmtk.echoscu(orthanc.dicom_port, aec=orthanc.ae_title)
    store(orthanc, ct_file)
    studies = httpx.get(f"{orthanc.dicomweb_url}/studies").raise_for_status().json()
    assert len(studies) == 1


def test_each_test_gets_an_empty_orthanc(orthanc: Orthanc) -> None:
    assert orthanc.count("patients") == 0


def test_orthanc_takes_an_object_again_without_a_second_instance(
    orthanc: Orthanc, ct_file: Path
) -> None:
    store(orthanc, ct_file)
    store(orthanc, ct_file)
    assert orthanc.count("instances") == 1


def test_storescu_fails_where_nobody_listens(ct_file: Path) -> None:
    with pytest.raises(AssertionError, match="storescu failed"):
        dcmtk.storescu(ct_file, peers.free_port())


def test_postgres_is_durable_and_survives_a_kill(
    postgres: Postgres, postgres_database: str
) -> None:
    with psycopg.connect(plain(postgres_database), autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute(f"SHOW {setting}").fetchone() == ("on",)
        connection.execute("CREATE TABLE kept (number integer)")
        connection.execute("INSERT INTO kept VALUES (42)")
    postgres.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(plain(postgres_database))
    postgres.start()
    engine = sqlalchemy.create_engine(postgres_database)
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT number FROM kept")) == 42
    engine.dispose()


def test_each_test_gets_an_empty_database(postgres: Postgres, postgres_database: str) -> None:
    with psycopg.connect(plain(postgres_database)) as connection:
        tables = connection.execute("SELECT * FROM pg_tables WHERE schemaname = 'public'")
        assert tables.fetchall() == []
    assert postgres.url.startswith("postgresql+psycopg://")


def test_dcmdump_shows_the_data_set(ct_file: Path) -> None:
    assert "CT Image Storage" in dcmtk.dcmdump(ct_file) or "CTImage" in dcmtk.dcmdump(ct_file)


def test_dciodvfy_names_the_errors_of_a_broken_object(ct_file: Path, tmp_path: Path) -> None:
    broken = pydicom.dcmread(ct_file)
    del broken.PatientID
    del broken.Rows
    broken.save_as(tmp_path / "broken.dcm")
    errors = dcmtk.dciodvfy(tmp_path / "broken.dcm")
    assert any("Rows" in error for error in errors)
    assert not any("Rows" in error for error in dcmtk.dciodvfy(ct_file))


def test_a_missing_tool_is_an_error_that_names_its_package() -> None:
    with pytest.raises(peers.MissingPeerError, match="install the package nowhere"):
        peers.find_tool("no-such-tool", "nowhere")


def plain(url: str) -> str:
    """The URL without SQLAlchemy's driver part, as psycopg itself takes it."""
    return url.replace("+psycopg", "")
