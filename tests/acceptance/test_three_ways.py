"""One graph, three ways to run it in one hub: in a process of its own, on an inference server
(MLServer), at a vendor. They find the same, say where they ran, and are stopped one at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from ruamel.yaml import YAML

from hub.domain.access import Scope
from hub.store.overview import RequestSummary
from model_adapters.reference_models import LUNG_DENSITY
from tests.acceptance.studies import PhantomFiles, phantom
from tests.acceptance.vendors import LOOPBACK, lung_density_at
from tests.peers.fhir_server import FhirServer
from tests.peers.mlserver import MlServer, ServedFile, mlserver
from tests.peers.vendor import SECRET, VendorPeer, simulated_vendor
from tests.running_hub import EHR, RunningHub, launch_hub, wait_for

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]

Json = dict[str, Any]

HERE, SERVED, ASKED = "lungs-here", "lungs-served", "lungs-asked"
WAYS = {HERE: "onnx", SERVED: "open_inference", ASKED: "vendor_http"}
"""Model -> kind of its runtime."""
SERVED_AS, SERVED_VERSION = "lung-density", "7"
"""What the inference server calls it."""
VENDOR = "Lungs far away"
REASON = ("--reason", "the committee agreed")
FILES = "results"
MEASURED = {"118565006", "112181", "LAA950"}


@dataclass
class Site:
    """A hub of two workers, and those whom it asks."""

    hub: RunningHub
    folder: Path
    server: MlServer
    vendor: VendorPeer
    fhir_server: FhirServer
    answers: dict[str, httpx.Response]
    """What the vendor was told when it registered its model, and tried to activate it."""
    study: PhantomFiles | None = None
    sent: int = 0

    def send(self) -> PhantomFiles:
        """A small chest; each is a study of its own."""
        self.sent += 1
        made = phantom(self.folder / f"study-{self.sent}", seed=self.sent, slices=4)
        self.hub.send(list(made.files))
        return made

    def requests(self, study: PhantomFiles) -> dict[str, RequestSummary]:
        """Model -> its request, when all have ended and every report is where it should be."""
        timeline = self.hub.wait_for_study(study.study_instance_uid)
        assert {one.state for one in timeline.deliveries} == {"delivered"}
        return {one.model_id: one for one in timeline.requests}

    def trail(self, study: PhantomFiles, model_id: str) -> list[Json]:
        """What an auditor is told of one model's request."""
        path = f"/api/v1/audit?limit=500&study_instance_uid={study.study_instance_uid}"
        answer = self.hub.get(path, Scope.AUDITOR).raise_for_status().json()
        entity = f"request:{self.requests(study)[model_id].request_id}"
        return [one for one in answer["items"] if one["entity"] == entity]

    def asked(self) -> int:
        """How often the vendor was asked."""
        return int(self.vendor.statistics()["counts"].get("asked", 0))

    def state(self, model_id: str) -> str:
        """Of a model, as operators are told."""
        answer = self.hub.get(f"/api/v1/models/{model_id}").raise_for_status()
        return str(answer.json()["state"])


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, module_fhir_server: FhirServer
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("ways")
    (folder / "server").mkdir()
    served = ServedFile(SERVED_AS, LUNG_DENSITY / "lung_density.onnx", SERVED_VERSION)
    options = ("--model", "builtin:lung-density", "--secret", SECRET, "--delay", "1")
    with ExitStack() as stack:
        server = stack.enter_context(mlserver(folder / "server", served))
        vendor = stack.enter_context(simulated_vendor(folder, "late-webhook", *options))
        hub = launch_hub(
            folder,
            workers=2,
            fhir_server=module_fhir_server,
            sections=_sections(folder, server, vendor, module_fhir_server),
        )
        stack.callback(hub.close)
        answers = _register_all(hub, folder, server, vendor)
        site = Site(hub, folder, server, vendor, module_fhir_server, answers)
        site.study = site.send()
        site.requests(site.study)
        yield site


@pytest.fixture(scope="module")
def study(site: Site) -> PhantomFiles:
    """The one that all three were asked about."""
    assert site.study is not None
    return site.study


def _sections(folder: Path, server: MlServer, vendor: VendorPeer, ehr: FhirServer) -> Json:
    """No model is configured; whom the hub may ask is."""
    files = {"name": FILES, "kind": "folder", "folder": str(folder / FILES)}
    return {
        **LOOPBACK,
        "models": [],
        "routes": [{"name": model, "when": "true", "model": model} for model in WAYS],
        "adapters": {
            "onnx_local": {"processes": 1},
            "open_inference": {"processes": 1, "servers": [{"url": server.base_url}]},
            "vendor_http": {"services": [{"url": vendor.url, "webhook_secrets": [SECRET]}]},
        },
        "destinations": [
            {"name": EHR, "kind": "fhir", "url": ehr.base_url},
            {**files, "documents": ["seg"]},
        ],
    }


def _register_all(
    hub: RunningHub, folder: Path, server: MlServer, vendor: VendorPeer
) -> dict[str, httpx.Response]:
    """An operator brings a folder and a single file, the vendor its own manifest by the API."""
    hub.caidx("model", "register", str(_here(folder / "here")), "--activate", *REASON)
    manifest = _served(folder / "served", server.base_url) / "model.yaml"
    hub.caidx("model", "register", str(manifest), "--activate", *REASON)

    theirs = lung_density_at(folder / "asked", vendor.url, ASKED, answer="webhook") / "model.yaml"
    _change(theirs, vendor={"name": VENDOR})
    models = f"{hub.http_url}/api/v1/models"
    headers = {"Authorization": f"Bearer {hub.key(Scope.VENDOR, VENDOR)}"}
    content, kind = theirs.read_bytes(), {"Content-Type": "application/yaml"}
    registered = httpx.post(models, content=content, headers=headers | kind, timeout=120)
    wish = {"reason": "it is ours"}
    tried = httpx.post(f"{models}/{ASKED}/activate", json=wish, headers=headers, timeout=120)
    seen = httpx.get(models, headers=headers, timeout=120)
    _activate(hub, ASKED, "the committee agreed")
    return {"registered": registered, "tried": tried, "seen": seen}


def _activate(hub: RunningHub, model_id: str, reason: str) -> None:
    """As an operator, by the API."""
    url = f"{hub.http_url}/api/v1/models/{model_id}/activate"
    headers = hub.headers(Scope.OPERATOR)
    httpx.post(url, json={"reason": reason}, headers=headers, timeout=120).raise_for_status()


def _here(folder: Path) -> Path:
    """The reference model under another id, with its graph."""
    shutil.copytree(LUNG_DENSITY, folder)
    _change(folder / "model.yaml", id=HERE)
    return folder


def _served(folder: Path, url: str) -> Path:
    """The same manifest; its graph is the inference server's."""
    folder.mkdir()
    shutil.copy(LUNG_DENSITY / "model.yaml", folder)
    inputs = YAML().load((LUNG_DENSITY / "model.yaml").read_text("utf-8"))["runtime"]["inputs"]
    runtime = {"kind": "open_inference", "url": url, "model_name": SERVED_AS, "inputs": inputs}
    _change(folder / "model.yaml", id=SERVED, runtime=runtime)
    return folder


def _change(file: Path, **values: Any) -> None:
    yaml = YAML()
    manifest = yaml.load(file.read_text("utf-8"))
    manifest |= values
    with file.open("w", encoding="utf-8") as opened:
        yaml.dump(manifest, opened)


# --- they come while the hub runs ---------------------------------------------------------------


def test_each_kind_of_runtime_is_registered_while_the_hub_runs(site: Site) -> None:
    listed = json.loads(site.hub.caidx("model", "list", "--json").stdout)
    found = {row["id"]: (row["state"], row["from"], row["problem"]) for row in listed}
    assert found == dict.fromkeys(WAYS, ("active", "registered", ""))
    events = site.hub.rows(
        "SELECT actor, detail FROM audit_log WHERE action = 'model.registered' ORDER BY sequence"
    )
    assert [json.loads(row["detail"])["runtime_kind"] for row in events] == list(WAYS.values())
    *by_operator, by_vendor = [row["actor"] for row in events]
    assert all(actor.startswith("user:") for actor in by_operator)
    assert by_vendor.startswith("key:test-vendor")


def test_a_vendor_brings_its_model_by_the_api_and_does_not_activate_it(site: Site) -> None:
    registered, tried, seen = (site.answers[name] for name in ("registered", "tried", "seen"))
    assert (registered.status_code, registered.json()["state"]) == (201, "registered")
    assert tried.status_code == 403
    assert [(one["id"], one["state"]) for one in seen.json()] == [(ASKED, "registered")]


# --- the same findings --------------------------------------------------------------------------


def test_all_three_find_the_same(site: Site, study: PhantomFiles) -> None:
    found = {model: _findings(site, study, model) for model in WAYS}
    assert {one["code"]["code_value"] for one in found[HERE]} == MEASURED
    volume = next(one for one in found[HERE] if one["code"]["code_value"] == "118565006")
    assert volume["value"] == pytest.approx(study.truth.lung_volume_ml, rel=0.001)
    assert found[SERVED] == found[HERE]
    assert found[ASKED] == found[HERE]


def _findings(site: Site, study: PhantomFiles, model_id: str) -> list[Json]:
    """As recorded. Each model tracks in its own name: UIDs become the numbers of the things."""
    request = site.requests(study)[model_id]
    assert request.outcome == "assessed"
    (row,) = site.hub.rows(
        "SELECT findings FROM results WHERE request_id = :r", r=request.request_id
    )
    findings: list[Json] = json.loads(row["findings"])
    things = list(dict.fromkeys(one["tracking_uid"] for one in findings))
    return [{**one, "tracking_uid": things.index(one["tracking_uid"])} for one in findings]


def test_all_three_segment_the_same(site: Site, study: PhantomFiles) -> None:
    here, *others = (_segmentation(site, study, model) for model in WAYS)
    assert here.pixel_array.any()
    for other in others:
        assert _segments(other) == _segments(here)
        assert np.array_equal(other.pixel_array, here.pixel_array)


def _segmentation(site: Site, study: PhantomFiles, model_id: str) -> Dataset:
    request_id = site.requests(study)[model_id].request_id
    (file,) = (site.folder / FILES / request_id).glob("seg-*.dcm")
    return pydicom.dcmread(file)


def _segments(data_set: Dataset) -> list[tuple[int, str, str]]:
    return [
        (int(one.SegmentNumber), str(one.SegmentLabel), str(one.TrackingID))
        for one in data_set.SegmentSequence
    ]


def test_the_record_gets_a_report_of_each_with_the_same_numbers(
    site: Site, study: PhantomFiles
) -> None:
    server = site.fhir_server
    uid = f"urn:oid:{study.study_instance_uid}"
    (imaging,) = server.search("ImagingStudy", identifier=f"urn:dicom:uid|{uid}")
    reports = [
        report
        for report in server.search("DiagnosticReport")
        if report["imagingStudy"] == [{"reference": f"ImagingStudy/{imaging['id']}"}]
    ]
    found = {_told_by(server, report): _numbers(server, report) for report in reports}
    assert len(reports) == len(found) == len(WAYS)
    assert set(found) == set(WAYS)
    assert {code for code, _, _ in found[HERE]} == MEASURED
    assert found[SERVED] == found[HERE]
    assert found[ASKED] == found[HERE]


def _observations(server: FhirServer, report: Json) -> list[Json]:
    found, waiting = [], [one["reference"] for one in report["result"]]
    while waiting:
        found.append(server.read(waiting.pop()))
        waiting += [one["reference"] for one in found[-1].get("hasMember", [])]
    return found


def _told_by(server: FhirServer, report: Json) -> str:
    """The model, by the Device of its Observations."""
    references = {one["device"]["reference"] for one in _observations(server, report)}
    (reference,) = references
    names = {one["type"]: one["name"] for one in server.read(reference)["deviceName"]}
    return str(names["model-name"])


def _numbers(server: FhirServer, report: Json) -> list[tuple[str, float, str]]:
    return sorted(
        (one["code"]["coding"][0]["code"], q["value"], q["code"])
        for one in _observations(server, report)
        if (q := one.get("valueQuantity"))
    )


# --- three audit trails -------------------------------------------------------------------------


def test_the_audit_trails_say_where_each_ran(site: Site, study: PhantomFiles) -> None:
    def vendors_word_is_there() -> bool:
        return "inference.deferred" in [one["action"] for one in site.trail(study, ASKED)]

    wait_for(vendors_word_is_there, "the vendor's word: its answer may overtake it", 30)
    trails = {model: site.trail(study, model) for model in WAYS}
    told = {model: [one["action"] for one in trail] for model, trail in trails.items()}
    ran_on = {}
    for model, trail in trails.items():
        (finished,) = [one for one in trail if one["action"] == "inference.finished"]
        ran_on[model] = finished["detail"]["ran_on"]
    root = site.vendor.url.rpartition("/")[0]
    assert ran_on[HERE] == "onnx_local CPUExecutionProvider"
    served_at = f"open_inference {site.server.base_url} {SERVED_AS}/{SERVED_VERSION}"
    assert ran_on[SERVED] == served_at
    assert ran_on[ASKED].startswith(f"vendor_http {root} job job-")
    alone = {"inference.deferred", "images.retrieved", "callback.taken"}
    assert alone <= set(told[ASKED])
    assert not alone & {*told[HERE], *told[SERVED]}
    for name in sorted(alone):
        assert told[ASKED].count(name) == 1, name
    assert told[HERE] == told[SERVED]
    by = {one["action"]: one["actor"] for one in trails[ASKED]}
    assert by["images.retrieved"] == by["callback.taken"] == f"vendor:{ASKED}"
    assert site.hub.caidx("audit", "verify").returncode == 0


# --- one is stopped, the others go on -----------------------------------------------------------


@pytest.mark.parametrize("stopped", WAYS)
def test_one_that_is_suspended_is_asked_nothing_and_the_others_go_on(
    site: Site, stopped: str
) -> None:
    hub = site.hub
    hub.caidx("model", "suspend", stopped, "--reason", "left and right are mixed up")
    assert site.state(stopped) == "suspended"
    before, later = site.asked(), [site.send(), site.send()]
    for study in later:
        requests = site.requests(study)
        assert {model: one.outcome for model, one in requests.items()} == {
            model: "assessed" for model in WAYS if model != stopped
        }
        timeline = hub.timeline(study.study_instance_uid)
        assert timeline is not None
        decided = {one.route: one.decision for one in timeline.decisions}
        assert decided[stopped] == "suspended"
    assert site.asked() - before == (0 if stopped == ASKED else len(later))

    _activate(hub, stopped, "it was a test image")
    again = later[0].study_instance_uid
    hub.caidx("study", "route", again)

    def is_answered() -> bool:
        timeline = hub.timeline(again)
        assert timeline is not None
        return [one.outcome for one in timeline.requests if one.model_id == stopped] == ["assessed"]

    wait_for(is_answered, f"{stopped} to be asked again", 60, hub.log_text)
