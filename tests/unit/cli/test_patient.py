"""``caidx patient change``."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hub.cli.app import run
from hub.domain.identity import PatientIdentity
from hub.store import schema
from hub.store.database import open_database, sqlite_url
from hub.store.patients import current_identity
from tests.unit.seeded import seeded_database

MERGE = (
    "MSH|^~\\&|RIS|H|||20260314||ADT^A40^ADT_A39|7|P|2.5.1||||||UNICODE UTF-8\r"
    "PID|1||NEW^^^KH^MR||Canary^Yellow\rMRG|OLD^^^KH^MR\r"
)
PATIENT = {
    "resourceType": "Patient",
    "identifier": [{"system": "urn:oid:1.2.3", "value": "OLD"}],
    "active": False,
    "link": [
        {
            "type": "replaced-by",
            "other": {"identifier": {"system": "urn:oid:1.2.3", "value": "NEW"}},
        }
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "var").mkdir()
    seeded_database(tmp_path / "var").close()
    (tmp_path / "caidx.yaml").write_text(
        f"data: {tmp_path / 'var'}\nsite: {{identifier_systems: {{KH: 'urn:oid:1.2.3'}}}}\n"
    )
    return tmp_path


def caidx(folder: Path, *arguments: str) -> int:
    return run(["--config", str(folder / "caidx.yaml"), "patient", "change", *arguments])


def now(folder: Path, patient_id: str, issuer: str = "KH") -> str:
    database = open_database(sqlite_url(folder / "var" / "caidx.sqlite"))
    with database.read() as connection:
        found = current_identity(connection, PatientIdentity(patient_id, issuer)).patient_id
    database.close()
    return found


def written(folder: Path, content: str) -> str:
    file = folder / "document"
    file.write_text(content)
    return str(file)


@pytest.mark.parametrize(
    "content", [MERGE, f"\x0b{MERGE}\x1c\r", MERGE.replace("\r", "\n"), json.dumps(PATIENT)]
)
def test_a_merge_is_recorded_once(
    folder: Path, content: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "rita")
    file = written(folder, content)
    assert caidx(folder, file) == 0
    assert "patient merged: recorded as" in capsys.readouterr().out
    assert now(folder, "OLD") == "NEW"
    assert caidx(folder, file) == 0
    assert capsys.readouterr().out.strip() == "1 of 1 changes were known already"
    database = open_database(sqlite_url(folder / "var" / "caidx.sqlite"))
    with database.read() as connection:
        assert len(connection.execute(sa.select(schema.patient_changes)).all()) == 1
        row = connection.execute(
            sa.select(schema.audit_log).where(schema.audit_log.c.action == "patient.changed")
        ).one()
    database.close()
    assert row.actor == "user:rita"
    assert "NEW" not in str(row)


def test_assigners_are_named_as_images_name_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert caidx(folder, written(folder, MERGE), "--issuer", "KH=") == 0
    assert (now(folder, "OLD", ""), now(folder, "OLD")) == ("NEW", "OLD")
    assert caidx(folder, written(folder, MERGE), "--issuer", "KH") == 2
    assert "ASSIGNER=ISSUER" in capsys.readouterr().err


def test_standard_input_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin: Any = io.TextIOWrapper(io.BytesIO(MERGE.encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert caidx(folder, "-") == 0
    assert now(folder, "OLD") == "NEW"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "Canary",
        MERGE.replace("A40", "A01"),
        MERGE.replace("^^^KH^MR", "^^^KH^SS"),
        json.dumps(PATIENT).replace("urn:oid:1.2.3", "urn:oid:9"),
    ],
)
def test_what_does_not_tell_is_refused_without_patient_data(
    folder: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert caidx(folder, written(folder, content)) == 1
    told = capsys.readouterr()
    assert told.err.startswith("error ")
    assert "Canary" not in told.out + told.err
    assert now(folder, "OLD") == "OLD"
