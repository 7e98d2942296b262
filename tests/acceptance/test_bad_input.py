"""Bad input ends in a clear, recorded answer for itself, and every other study goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom import AE

from hub.domain.identity import PatientIdentity, derived_uid
from hub.store.overview import StudyTimeline
from tests.acceptance.models import densities, not_a_number
from tests.acceptance.raw_store import CT_IMAGE_STORAGE, raw_store
from tests.acceptance.studies import (
    ABDOMEN,
    CT_SMALL,
    HEAD,
    StudyFiles,
    abdomen,
    as_new_study,
    changed,
    phantom,
    sample,
    sample_data_set,
)
from tests.peers import dcmtk
from tests.running_hub import RESULTS, RunningHub, launch_hub, wait_for

pytestmark = pytest.mark.peers

ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
CANNOT_UNDERSTAND, DOES_NOT_MATCH = 0xC000, 0xA900
LUNG, DENSITIES, NAN, BROKEN = "lung-density", "densities", "not-a-number", "broken"


def _route(model: str, description: str) -> dict[str, str]:
    series = f'series.series_description == "{description}"'
    return {"name": model, "when": "true", "series": series, "model": model}


ROUTES = [
    {
        "name": "chest",
        "when": '"CT" in study.modalities_in_study',
        "series": 'series.body_part_examined in ["CHEST", "PARTIALBODY"]',
        "model": LUNG,
    },
    {
        "name": "head",
        "when": "true",
        "series": 'series.body_part_examined == "HEAD"',
        "model": LUNG,
    },
    {
        "name": "head-densities",
        "when": "true",
        "series": 'series.body_part_examined == "HEAD"',
        "model": DENSITIES,
    },
    _route(NAN, "for the model that answers NaN"),
    _route(BROKEN, "for the model that is broken"),
]


@dataclass
class Site:
    """A hub, and studies without fault to show that it goes on."""

    hub: RunningHub
    folder: Path
    _seeds: Iterator[int] = field(default_factory=lambda: count(100))

    def goes_on(self) -> None:
        """A good study goes the whole way."""
        seed = next(self._seeds)
        study = phantom(self.folder / f"good-{seed}", seed=seed, slices=2)
        self.hub.send(study.files)
        timeline = self.hub.wait_for_study(study.study_instance_uid)
        assert [result.outcome for result in timeline.results] == ["assessed"]
        assert {delivery.state for delivery in timeline.deliveries} == {"delivered"}

    def rejections(self) -> list[dict[str, Any]]:
        """Audit rows of the objects that were refused."""
        statement = "SELECT detail, outcome FROM audit_log WHERE action = 'object.rejected'"
        return self.hub.rows(statement)

    def nothing_was_delivered(self, timeline: StudyTimeline) -> bool:
        folders = [self.hub.data / RESULTS / r.request_id for r in timeline.requests]
        made = [one for one in timeline.documents if one.kind != "record"]
        return (
            not made and not timeline.deliveries and not any(folder.exists() for folder in folders)
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("bad")
    broken = densities(folder / BROKEN, model_id=BROKEN) / "model.yaml"
    broken.write_text(broken.read_text() + "colour: blue\n")
    packages = [densities(folder / DENSITIES), not_a_number(folder / NAN), broken.parent]
    models = [{"package": str(package)} for package in (f"builtin:{LUNG}", *packages)]
    hub = launch_hub(folder, sections={"routes": ROUTES, "models": models})
    yield Site(hub, folder)
    hub.close()


# --- objects that are refused ------------------------------------------------------------------


def encoded(data_set: Dataset) -> bytes:
    """Explicit VR little endian, without preamble and file meta information."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, data_set)
    return bytes(buffer.getvalue())


def good_slice(name: str) -> Dataset:
    data_set = sample_data_set(CT_SMALL)
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(data_set, keyword, derived_uid("bad", name, keyword))
    return data_set


def refused(site: Site, data_set: bytes, uid: str, **named: Any) -> tuple[int, str]:
    """Send it and expect one audit row with the reason that the sender got; returns both."""
    before = len(site.rejections())
    status, comment = raw_store(site.hub.dicom_port, data_set, sop_instance_uid=uid, **named)
    wait_for(lambda: len(site.rejections()) > before, "the refusal on record", 30)
    rows = site.rejections()[before:]
    assert len(rows) == 1, "refused and recorded once"
    assert comment[:40] in rows[0]["detail"], "the sender is told what is recorded"
    assert rows[0]["outcome"] == "serious-failure"
    assert f"0x{status:04X}" in site.hub.log_text()
    statement = "SELECT count(*) AS n FROM instances WHERE sop_instance_uid = :uid"
    assert site.hub.rows(statement, uid=uid)[0]["n"] == 0
    return status, comment


def test_an_unknown_sop_class_is_not_accepted_and_logged(site: Site) -> None:
    private = "1.2.276.0.99.1"
    ae = AE(ae_title="MODALITY9")
    for uid in (private, CT_IMAGE_STORAGE):
        ae.add_requested_context(uid)
    association = ae.associate("127.0.0.1", site.hub.dicom_port)
    answers = {str(c.abstract_syntax): c.result for c in association.rejected_contexts}
    accepted = [str(context.abstract_syntax) for context in association.accepted_contexts]
    association.release()
    assert answers == {private: ABSTRACT_SYNTAX_NOT_SUPPORTED}
    assert accepted == [CT_IMAGE_STORAGE], "what else is offered goes on"

    def recorded() -> bool:
        lines = [line for line in site.hub.log_text().splitlines() if private in line]
        return len(lines) == 1 and "MODALITY9" in lines[0]

    wait_for(recorded, "the refusal in the log", 30)
    site.goes_on()


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_an_object_without_a_uid_is_refused(site: Site, keyword: str, how: str) -> None:
    data_set = good_slice(f"{keyword} {how}")
    uid = str(data_set.SOPInstanceUID)
    if how == "missing":
        delattr(data_set, keyword)
    else:
        setattr(data_set, keyword, "")
    status, comment = refused(site, encoded(data_set), uid)
    assert status in (CANNOT_UNDERSTAND, DOES_NOT_MATCH)
    assert "uid" in comment.lower()


def test_real_files_that_came_without_uids_are_refused(site: Site, shared_data: Path) -> None:
    file = min((shared_data / ABDOMEN).iterdir())
    data_set = pydicom.dcmread(file, stop_before_pixels=True)
    status, _ = refused(site, encoded(data_set), "1.2.3.4")
    assert status in (CANNOT_UNDERSTAND, DOES_NOT_MATCH)


def test_an_object_under_another_uid_than_its_own_is_refused(site: Site) -> None:
    status, comment = refused(site, encoded(good_slice("other")), "1.2.3.4.5")
    assert status == DOES_NOT_MATCH
    assert "differ" in comment


def test_an_empty_object_is_refused(site: Site) -> None:
    status, _ = refused(site, b"", "1.2.3.4.6")
    assert status == CANNOT_UNDERSTAND


def test_an_empty_file_is_not_sent_and_said_so(site: Site, tmp_path: Path) -> None:
    empty = tmp_path / "empty.dcm"
    empty.write_bytes(b"")
    to = f"CAIDX@127.0.0.1:{site.hub.dicom_port}"
    done = site.hub.caidx("send", str(empty), "--to", to, check=False)
    assert done.returncode != 0
    assert "empty.dcm" in done.stdout + done.stderr


@pytest.mark.parametrize("at", ["in the header", "in the pixels", "of an element", "of a sequence"])
def test_an_object_with_wrong_lengths_is_refused(site: Site, at: str) -> None:
    data_set = good_slice(at)
    uid, content = str(data_set.SOPInstanceUID), encoded(data_set)
    if at == "in the header":
        content = content[: len(content) // 20]
    elif at == "in the pixels":
        content = content[:-5000]
    elif at == "of an element":
        where = content.index(b"\x08\x00\x60\x00CS")  # Modality
        content = content[: where + 6] + b"\xff\xfe" + content[where + 8 :]
    else:
        wrong = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\x7f"  # ReferencedImageSequence
        where = content.index(b"\x08\x00\x60\x00CS")
        content = content[:where] + wrong + content[where:]
    status, _ = refused(site, content, uid)
    assert status in (CANNOT_UNDERSTAND, DOES_NOT_MATCH)
    site.goes_on()


def test_noise_on_the_port_and_connections_that_say_nothing_lock_nobody_out(site: Site) -> None:
    for content in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, b"\x01\x00\x7f\xff\xff\xff", b""):
        for _ in range(12):
            with socket.create_connection(("127.0.0.1", site.hub.dicom_port), 10) as connection:
                connection.sendall(content)
    wait_for(lambda: dcmtk.echoscu(site.hub.dicom_port, check=False).returncode == 0, "an echo", 20)
    site.goes_on()


# --- studies that get a clear answer -------------------------------------------------------------


def test_two_patients_in_one_study_are_held_back(site: Site, tmp_path: Path) -> None:
    one = phantom(tmp_path / "one", seed=41, slices=4, patient=PatientIdentity("P-1", "", "A^B"))

    def change(data_set: Dataset) -> None:
        data_set.PatientID, data_set.PatientName = "P-2", "C^D"
        data_set.SOPInstanceUID = derived_uid("bad", str(data_set.SOPInstanceUID))

    site.hub.send([*one.files, *changed(one, tmp_path / "other", change)])
    timeline = site.hub.wait_for_study(one.study_instance_uid)
    (problem,) = timeline.revisions[0].problems
    assert "more than one patient" in problem
    assert {decision.decision for decision in timeline.decisions} == {"no-match"}
    assert not timeline.requests
    assert site.nothing_was_delivered(timeline)
    assert [alert.kind for alert in timeline.alerts] == ["study.held"]
    assert any("held back" in line for line in timeline.explanation)
    site.goes_on()


def test_other_bytes_under_a_known_uid_are_kept_flagged_and_not_used(
    site: Site, tmp_path: Path
) -> None:
    study = phantom(tmp_path / "first", seed=42, slices=4)
    site.hub.send(study.files)
    first = site.hub.wait_for_study(study.study_instance_uid)

    def change(data_set: Dataset) -> None:
        data_set.PixelData = bytes(len(data_set.PixelData))

    site.hub.send(changed(study, tmp_path / "second", change))

    def states() -> list[str]:
        rows = site.hub.rows(
            "SELECT state FROM instances WHERE study_instance_uid = :uid",
            uid=study.study_instance_uid,
        )
        return sorted(row["state"] for row in rows)

    wait_for(lambda: len(states()) == 8, "all of them to be indexed", 30)
    assert states() == ["conflict"] * 4 + ["current"] * 4
    site.goes_on()
    timeline = site.hub.wait_for_study(study.study_instance_uid)
    assert [alert.kind for alert in timeline.alerts] == ["instance.conflict"] * 4
    assert timeline.results == first.results
    assert timeline.deliveries == first.deliveries


def test_tilted_and_uneven_slices_are_unsuitable_with_the_reason(
    site: Site, tmp_path: Path, shared_data: Path
) -> None:
    files = sorted((shared_data / HEAD).glob("*.dcm"))
    study = as_new_study(files, tmp_path / "head", name="head")
    site.hub.send(study.files)
    timeline = site.hub.wait_for_study(study.study_instance_uid)
    reasons = {result.model_id: result.reasons for result in timeline.results}
    assert {result.outcome for result in timeline.results} == {"unsuitable"}
    assert any("HEAD" in reason for reason in reasons[LUNG]), "intended use: not the head"
    text = " ".join(reasons[DENSITIES])
    assert "slices" in text
    assert "tilt" in text or "spac" in text or "distance" in text, text
    assert site.nothing_was_delivered(timeline)
    assert any("unsuitable" in line for line in timeline.explanation)
    site.goes_on()


def test_uneven_slices_of_a_straight_series_are_unsuitable_with_the_reason(
    site: Site, tmp_path: Path
) -> None:
    study = phantom(tmp_path / "whole", seed=43, slices=6)
    site.hub.send([file for number, file in enumerate(study.files) if number != 3])
    timeline = site.hub.wait_for_study(study.study_instance_uid)
    (result,) = timeline.results
    assert result.outcome == "unsuitable"
    assert "slice" in " ".join(result.reasons)
    assert site.nothing_was_delivered(timeline)


def test_pixels_that_cannot_be_decoded_are_a_dead_letter(
    site: Site, tmp_path: Path, shared_data: Path
) -> None:
    study = abdomen(shared_data, tmp_path / "whole")

    def change(data_set: Dataset) -> None:
        if data_set.InstanceNumber == 270:
            stream = get_frame(data_set.PixelData, 0, number_of_frames=1)
            data_set.PixelData = encapsulate([stream[: len(stream) // 3]])

    site.hub.send(changed(study, tmp_path / "cut", change))
    timeline = site.hub.wait_for_study(study.study_instance_uid)
    (request,) = timeline.requests
    assert request.state == "failed"
    assert request.attempts == 1, "it can never succeed"
    assert "decoded" in request.detail
    assert [alert.kind for alert in timeline.alerts] == ["inference.failed"]
    assert timeline.results == ()
    assert site.nothing_was_delivered(timeline)
    assert any("decoded" in line for line in timeline.explanation)
    site.goes_on()


def test_a_model_that_answers_nan_is_refused(site: Site, tmp_path: Path) -> None:
    study = _for_route(tmp_path, "for the model that answers NaN")
    site.hub.send(study.files)
    timeline = site.hub.wait_for_study(study.study_instance_uid)
    (request,) = timeline.requests
    assert (request.state, request.attempts) == ("failed", 1)
    assert "nan" in request.detail.lower() or "finite" in request.detail
    assert [alert.kind for alert in timeline.alerts] == ["inference.failed"]
    assert timeline.results == ()
    assert site.nothing_was_delivered(timeline)
    site.goes_on()


def test_a_route_to_a_model_with_a_broken_manifest_raises_an_alert(
    site: Site, tmp_path: Path
) -> None:
    study = _for_route(tmp_path, "for the model that is broken")
    site.hub.send(study.files)
    timeline = site.hub.wait_for_study(study.study_instance_uid)
    decisions = {decision.route: decision for decision in timeline.decisions}
    assert decisions[BROKEN].decision == "rule-error"
    assert "colour" in " ".join(decisions[BROKEN].reasons), "the unknown field is named"
    assert [alert.kind for alert in timeline.alerts] == ["route.error"]
    assert timeline.requests == ()
    site.goes_on()


def _for_route(folder: Path, description: str) -> StudyFiles:
    return sample(
        CT_SMALL,
        folder / "in",
        name=description,
        SeriesDescription=description,
        BodyPartExamined="KNEE",
    )


# --- configuration -------------------------------------------------------------------------------


def test_an_unknown_field_in_a_manifest_is_named_with_its_line(site: Site) -> None:
    done = site.hub.caidx("config", "check", check=False)
    assert done.returncode == 2
    manifest = site.folder / BROKEN / "model.yaml"
    line = manifest.read_text().splitlines().index("colour: blue") + 1
    assert f"{manifest}:{line}: colour:" in done.stderr.replace("\n", "")


UNKNOWN_FIELDS = """\
colour: blue
sources:
  - {name: a, kind: dicom, colour: b}
destinations:
  - {name: a, kind: folder, folder: x, colour: b}
models:
  - {package: 'builtin:lung-density', colour: b}
adapters:
  onnx_local: {colour: b}
routes:
  - {name: a, when: 'true', model: lung-density, colour: b}
web: {colour: b}
"""


@pytest.mark.parametrize("command", [["config", "check"], ["serve"]])
def test_an_unknown_field_in_any_section_is_named_and_nothing_starts(
    tmp_path: Path, site: Site, command: list[str]
) -> None:
    file = tmp_path / "caidx.yaml"
    file.write_text(f"data: {tmp_path / 'var'}\n{UNKNOWN_FIELDS}")
    done = site.hub.caidx("--config", str(file), *command, check=False)
    assert done.returncode == 2, done.stderr
    told = done.stderr.replace("\n", "")
    for line, where in {
        2: "colour",
        4: "sources.0.colour",
        6: "destinations.0.colour",
        8: "models.0.colour",
        10: "adapters.onnx_local.colour",
        12: "routes.0.colour",
        13: "web.colour",
    }.items():
        assert f"{file}:{line}: {where}:" in told
    assert not (tmp_path / "var").exists()
