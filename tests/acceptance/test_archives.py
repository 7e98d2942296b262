"""The whole hub and an archive: counts, missing images, a named study, priors, and a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from hub.domain.identity import PatientIdentity
from hub.formats.images.ct_phantom import PHANTOM_PATIENT, chest_phantom
from hub.store.overview import StudyTimeline
from tests.acceptance.models import densities
from tests.peers.dcmtk import storescu
from tests.peers.orthanc import Orthanc
from tests.running_hub import AE_TITLE, RunningHub, StartHub, start_hub, wait_for

__all__ = ["start_hub"]
pytestmark = pytest.mark.peers

CURRENT, OLDER = "1.2.826.0.1.3680043.8.498.501", "1.2.826.0.1.3680043.8.498.502"


def study(
    folder: Path, uid: str, date: str, patient: PatientIdentity = PHANTOM_PATIENT, slices: int = 4
) -> list[Path]:
    """The files of a small chest CT."""
    made = chest_phantom(
        slices=slices,
        rows=64,
        columns=64,
        study_instance_uid=uid,
        study_date=date,
        patient=patient,
    )
    folder.mkdir()
    paths = [folder / f"{number}.dcm" for number in range(slices)]
    for path, content in zip(paths, made.files, strict=True):
        path.write_bytes(content)
    return paths


def sections(orthanc: Orthanc, package: Path, kind: str, **more: Any) -> dict[str, Any]:
    """The hub's configuration with one archive, asked by DICOMweb or DICOM."""
    peer = {"ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.dicom_port}
    archive = {
        "dicomweb": {"name": "archive", "kind": "dicomweb", "url": orthanc.dicomweb_url},
        "c-move": {"name": "archive", "kind": "dicom", "retrieve": "c-move", **peer},
        "c-get": {"name": "archive", "kind": "dicom", "retrieve": "c-get", **peer},
    }[kind]
    route = {"name": "ct", "when": '"CT" in study.modalities_in_study', "model": "densities"}
    return {
        "archives": [archive],
        "models": [{"package": str(package)}],
        "routes": [route],
        **more,
    }


def fill(orthanc: Orthanc, hub: RunningHub | None, paths: list[Path]) -> None:
    """Put files into the archive, and let it know the hub for C-MOVE."""
    storescu(paths, orthanc.dicom_port, aec=orthanc.ae_title)
    if hub is not None:
        body = {"AET": AE_TITLE, "Host": "127.0.0.1", "Port": hub.dicom_port}
        httpx.put(f"{orthanc.http_url}/modalities/hub", json=body).raise_for_status()


def wants_priors(package: Path, more: str = "") -> Path:
    """Change a manifest so that the model wants one."""
    manifest = package / "model.yaml"
    wish = f"input: {{kind: volume, priors: {{maximum: 2{more}}}}}"
    manifest.write_text(manifest.read_text().replace("input: {kind: volume}", wish))
    return package


def priors_of(hub: RunningHub, uid: str) -> dict[str, Any]:
    (row,) = hub.rows("SELECT priors FROM requests WHERE study_instance_uid = :uid", uid=uid)
    return dict(json.loads(row["priors"]))


def actions(timeline: StudyTimeline | None) -> list[str]:
    return [] if timeline is None else [event.action for event in timeline.events]


@pytest.mark.parametrize("kind", ["dicomweb", "c-move", "c-get"])
def test_a_study_that_a_person_names_is_fetched_and_analysed(
    orthanc: Orthanc, start_hub: StartHub, tmp_path: Path, kind: str
) -> None:
    hub = start_hub(sections=sections(orthanc, densities(tmp_path / "model"), kind))
    fill(orthanc, hub, study(tmp_path / "files", CURRENT, "20260101"))
    hub.caidx("study", "fetch", CURRENT, "--archive", "archive")
    timeline = hub.wait_for_study(CURRENT)
    assert [request.state for request in timeline.requests] == ["done"]
    assert "fetch.ended" in actions(timeline)
    assert "answers QIDO-RS" in hub.caidx("doctor").stdout or kind != "dicomweb"
    refused = hub.caidx("study", "fetch", CURRENT, "--archive", "elsewhere", check=False)
    assert (refused.returncode, "no archive elsewhere" in refused.stderr) == (1, True)


@pytest.mark.parametrize("kind", ["dicomweb", "c-move"])
def test_missing_images_are_fetched_before_the_model_is_asked(
    orthanc: Orthanc, start_hub: StartHub, tmp_path: Path, kind: str
) -> None:
    completeness = {
        "quiet_seconds": 4.0,  # then it is fetched: longer than asking takes on a busy machine
        "straggler_seconds": 12.0,
        "archive": "archive",
        "ask_after_seconds": 0.2,
        "fetch_missing": True,
    }
    package = densities(tmp_path / "model")
    hub = start_hub(sections=sections(orthanc, package, kind, completeness=completeness))
    files = study(tmp_path / "files", CURRENT, "20260101")
    fill(orthanc, hub, files)
    hub.send(files[:2])
    timeline = hub.wait_for_study(CURRENT)
    (revision,) = timeline.revisions
    assert (revision.received_instances, revision.expected_instances) == (4, 4)
    assert revision.evidence == "expected-count"


@pytest.mark.parametrize("kind", ["dicomweb", "c-move"])
def test_priors_are_found_in_the_archive_even_if_the_worker_dies_in_between(
    orthanc: Orthanc, start_hub: StartHub, tmp_path: Path, kind: str
) -> None:
    package = wants_priors(densities(tmp_path / "model"))
    hub = start_hub(supervised=False, sections=sections(orthanc, package, kind))
    fill(orthanc, hub, study(tmp_path / "older", OLDER, "20240101"))
    stranger = PatientIdentity(
        PHANTOM_PATIENT.patient_id,
        PHANTOM_PATIENT.issuer_of_patient_id,
        "Other^Person",
        "19010101",
    )
    fill(orthanc, None, study(tmp_path / "other", f"{OLDER}.9", "20250101", stranger))
    hub.send(study(tmp_path / "current", CURRENT, "20260101"))
    wait_for(
        lambda: "priors.searched" in actions(hub.timeline(CURRENT)), "the search", 60, hub.log_text
    )
    hub.kill("worker-1")
    hub.restart("worker-1")
    timeline = hub.wait_for_study(CURRENT)
    assert priors_of(hub, CURRENT)["used"] == [OLDER]
    assert [request.state for request in timeline.requests] == ["done"]
    older = hub.wait_for_study(OLDER, "routed")
    # images of the attempt that was cut short may be a revision of their own
    assert {decision.decision for decision in older.decisions} == {"no-match"}
    assert hub.timeline(f"{OLDER}.9") is None  # another patient's examination was never fetched


def test_without_its_archive_a_model_runs_and_the_result_says_so(
    orthanc: Orthanc, start_hub: StartHub, tmp_path: Path
) -> None:
    package = wants_priors(densities(tmp_path / "model"))
    hub = start_hub(sections=sections(orthanc, package, "c-get"))
    orthanc.kill()
    hub.send(study(tmp_path / "current", CURRENT, "20260101"))
    timeline = hub.wait_for_study(CURRENT)
    assert [request.state for request in timeline.requests] == ["done"]
    (row,) = hub.rows("SELECT warnings FROM results")
    assert "Archive archive could not be asked for priors" in row["warnings"]
    assert "No prior examination was found." in row["warnings"]
