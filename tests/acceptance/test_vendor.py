"""A whole hub and vendors that behave in every way; each request ends as it should, and the others
of the same study are unharmed."""

from __future__ import annotations

import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from hub.formats.dicom.part10 import split_part10
from hub.simulator.behaviours import Behaviour
from hub.transport.webhook_signature import key_of, signed_headers
from tests.acceptance.studies import PhantomFiles, phantom
from tests.acceptance.vendors import Misbehaving, lung_density_at, sections, vendor
from tests.peers.certificates import Authority
from tests.peers.vendor import API_KEY, SECRET, simulated_vendor
from tests.running_hub import RunningHub, StartHub, launch_hub, start_hub, wait_for

__all__ = ["start_hub"]

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]

FURTHER_DEATHS = [
    ("poll", "web"),
    ("poll", "all"),
    ("webhook", "worker-1"),
    ("sync", "worker-1"),
    ("sync", "all"),
]
"""Who answers how, and whose process dies: those that take no other way than the first three."""
SOON = {"answer_within_seconds": 6.0}
DONE, FAILED, QUARANTINED = "done", "failed", "quarantined"


@dataclass(frozen=True)
class Case:
    """One vendor, and how a request to it ends."""

    name: str
    state: str
    because: str = ""
    """Stands in the request's detail."""
    options: Any = None
    attempts: int = 1


CASES = [
    Case("ok", DONE),
    Case("slow", DONE),
    Case("poll", DONE),
    Case("late-webhook", DONE),
    Case("unsuitable", DONE, "outside the intended use"),
    Case("never", FAILED, "by the deadline", {"runtime": SOON}),
    Case("failed", FAILED, "internal-error"),
    Case("wrong-study", QUARANTINED),
    Case("wrong-request", QUARANTINED),
    Case("wrong-model", QUARANTINED),
    Case("garbage", FAILED, "findings.0"),
    Case("not-json", FAILED, "is not JSON"),
    Case("http-500", FAILED, "HTTP 500", attempts=3),
    Case("http-500-once", DONE, "", {"behaviour": "http-500", "fail_first": 1}, 2),
    Case("http-429", FAILED, "HTTP 429", attempts=3),
    Case("http-401", FAILED, "does not let the hub in", attempts=3),
    Case("redirect", FAILED, "redirects are not followed"),
    Case("hang", FAILED, "Timeout", attempts=3),
    Case("drip", FAILED, "Timeout", attempts=3),
    Case("huge", FAILED, "too long", attempts=3),
    Case("close", FAILED, "RemoteProtocolError", attempts=3),
    Case("lost-reply", DONE, attempts=2),
    Case("duplicate-webhook", DONE),
    Case("unsigned-webhook", FAILED, "by the deadline", {"runtime": SOON}),
    Case("old-webhook", FAILED, "by the deadline", {"runtime": SOON}),
    Case("replayed-webhook", DONE),
]


@dataclass
class Asked:
    """A hub that asked all of them about one study."""

    hub: RunningHub
    study: PhantomFiles
    vendors: dict[str, Misbehaving]

    def request(self, model_id: str) -> dict[str, Any]:
        (row,) = self.hub.rows(
            "SELECT * FROM requests WHERE model_id = :m AND study_instance_uid = :s",
            m=model_id,
            s=self.study.study_instance_uid,
        )
        return row


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("vendors")
    with ExitStack() as stack:
        vendors = {
            case.name: stack.enter_context(
                vendor(case.name, **{"behaviour": "", **(case.options or {})})
            )
            for case in CASES
        }
        (folder / "hub").mkdir()
        hub = launch_hub(folder / "hub", sections=sections(folder, list(vendors.values())))
        stack.callback(hub.close)
        study = phantom(folder / "study", slices=2)
        hub.send(list(study.files))
        hub.wait_for_study(study.study_instance_uid)
        yield Asked(hub, study, vendors)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_behaviour_ends_in_its_state(asked: Asked, case: Case) -> None:
    row = asked.request(f"v-{case.name}")
    assert row["state"] == case.state, row["detail"]
    assert case.because in row["detail"]
    begun = asked.hub.rows(
        "SELECT 1 FROM audit_log WHERE action = 'inference.started' AND entity = :e",
        e=f"request:{row['request_id']}",
    )
    assert len(begun) == case.attempts


def test_no_behaviour_is_left_out(asked: Asked) -> None:
    shown = {one.vendor.options.behaviour for one in asked.vendors.values()}
    assert shown == set(Behaviour)


def test_the_studys_own_model_is_unharmed(asked: Asked) -> None:
    assert asked.request("lung-density")["state"] == DONE


def test_every_report_is_sent_and_none_for_what_is_no_answer(asked: Asked) -> None:
    sent = asked.hub.rows(
        "SELECT DISTINCT r.model_id AS m FROM deliveries d JOIN requests r"
        " ON r.request_id = d.request_id WHERE d.state = 'delivered'"
    )
    answered = {f"v-{case.name}" for case in CASES if case.state == DONE} - {"v-unsuitable"}
    assert {row["m"] for row in sent} >= answered | {"lung-density"}
    assert not {row["m"] for row in sent} & {
        f"v-{case.name}" for case in CASES if case.state == QUARANTINED
    }


def test_what_answered_was_computed_once(asked: Asked) -> None:
    for case in CASES:
        if case.state == DONE:
            computed = asked.vendors[case.name].statistics["computed"]
            assert list(computed.values()) == [1], case.name


def test_where_it_ran_stands_in_the_audit_log(asked: Asked) -> None:
    timeline = asked.hub.timeline(asked.study.study_instance_uid)
    assert timeline is not None
    found = {
        event.detail["model"]: event.detail["ran_on"]
        for event in timeline.events
        if event.action == "inference.finished"
    }
    root = asked.vendors["ok"].url.rpartition("/")[0]
    assert found["v-ok|1.0.0"] == f"vendor_http {root}"
    assert found["v-poll|1.0.0"].startswith("vendor_http http://127.0.0.1:")
    assert " job job-" in found["v-poll|1.0.0"]
    assert found["v-unsuitable|1.0.0"].startswith("vendor_http http://127.0.0.1:")


def test_nobody_follows_a_redirect(asked: Asked) -> None:
    assert "redirected" not in asked.vendors["redirect"].statistics["counts"]


def webhooks(one: Misbehaving) -> list[tuple[str, int]]:
    return [(told["kind"], told["status"]) for told in one.statistics["webhooks"]]


def test_webhooks_are_taken_once_and_only_if_they_are_signed_now(asked: Asked) -> None:
    vendors = asked.vendors
    assert webhooks(vendors["late-webhook"]) == [("answer", 200)]
    assert webhooks(vendors["duplicate-webhook"]) == [("answer", 200), ("duplicate", 200)]
    assert webhooks(vendors["unsigned-webhook"]) == [("answer", 401)]
    assert webhooks(vendors["old-webhook"]) == [("answer", 401)]
    assert webhooks(vendors["replayed-webhook"]) == [("answer", 200), ("replay", 200)]


def test_whoever_is_not_waited_for_is_told(asked: Asked) -> None:
    assert asked.vendors["never"].statistics["counts"]["cancelled"] == 1
    assert "cancelled" not in asked.vendors["poll"].statistics["counts"]


def test_what_comes_too_late_is_refused_and_recorded(asked: Asked) -> None:
    row = asked.request("v-old-webhook")
    body = orjson.dumps({"late": True})
    url = f"{asked.hub.http_url}/api/v1/callbacks/{row['request_id']}"
    headers = signed_headers("late-1", datetime.now(UTC), body, [key_of(SECRET)])
    assert httpx.post(url, content=body, headers=dict(headers)).status_code == 410
    refused = asked.hub.rows(
        "SELECT detail FROM audit_log WHERE action = 'callback.refused' AND entity = :e",
        e=f"request:{row['request_id']}",
    )
    assert len(refused) == 1


def test_a_message_overheard_opens_no_other_request(asked: Asked) -> None:
    """The next study: what was overheard before is sent to its callback, too."""
    second = phantom(asked.hub.folder / "second", seed=2, slices=2)
    asked.hub.send(list(second.files))
    asked.hub.wait_for_study(second.study_instance_uid)
    (row,) = asked.hub.rows(
        "SELECT state FROM requests WHERE model_id = 'v-replayed-webhook'"
        " AND study_instance_uid = :s",
        s=second.study_instance_uid,
    )
    assert row["state"] == DONE
    assert ("replay-of-another", 409) in webhooks(asked.vendors["replayed-webhook"])


# --- images -------------------------------------------------------------------------------------


def test_the_images_of_a_request_are_given_to_whoever_has_its_token(
    start_hub: StartHub, tmp_path: Path
) -> None:
    with vendor("never", runtime={"answer_within_seconds": 12.0}) as one:
        hub = start_hub(sections=sections(tmp_path, [one]))
        study = phantom(tmp_path / "study", slices=3)
        hub.send(list(study.files))
        wait_for(lambda: bool(one.vendor.everything_received()), "the vendor to be asked")
        (message,) = [told["body"] for told in one.vendor.everything_received()]
        given = message["inputs"][0]
        (series,) = given["series"]
        url, authorization = given["retrieve"]["url"], given["retrieve"]["authorization"]
        path = f"{url}/studies/{given['study_instance_uid']}"
        of_series = f"{path}/series/{series['series_instance_uid']}"
        sop = series["instances"][0]["sop_instance_uid"]

        def get(target: str, token: str = authorization, accept: str = "*/*") -> httpx.Response:
            return httpx.get(target, headers={"Authorization": token, "Accept": accept})

        whole = get(of_series)
        assert whole.status_code == 200
        assert whole.headers["content-type"].startswith(
            'multipart/related; type="application/dicom"'
        )
        files = sorted(file.read_bytes() for file in study.files)
        assert all(data_set(file) in whole.content for file in files)
        alone = get(f"{of_series}/instances/{sop}", accept="application/dicom")
        assert data_set(alone.content) in {data_set(file) for file in files}
        assert get(path).content.count(b"DICM") == 3
        for target in (
            f"{url}/studies/1.2.3",
            f"{path}/series/1.2.3",
            f"{of_series}/instances/1.2",
        ):
            assert get(target).status_code == 404
        assert get(of_series, accept="application/json").status_code == 406
        for token in ("", authorization[:-1] + ("0" if authorization[-1] != "0" else "1")):
            assert get(of_series, token).status_code == 401
        head, _, seal = authorization.rpartition(".")
        later = f"{head.rpartition('.')[0]}.{int(head.rpartition('.')[2]) + 9999}.{seal}"
        assert get(of_series, later).status_code == 401
        other = of_series.replace(message["request_id"], "f" * 32)
        assert get(other).status_code == 401
        assert len(hub.rows("SELECT 1 FROM audit_log WHERE action = 'images.retrieved'")) == 1
        secret = hub.data / "vendor-door.key"
        assert secret.stat().st_mode & 0o777 == 0o600
        hub.wait_for_study(study.study_instance_uid)
        assert get(of_series).status_code in (401, 410)


def data_set(file: bytes) -> bytes:
    """What follows the file meta information."""
    return split_part10(file)[1]


# --- who waits, dies ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answering", "role"),
    [
        ("poll", "worker-1"),
        ("webhook", "web"),
        ("webhook", "all"),
        *(pytest.param(*pair, marks=pytest.mark.soak) for pair in FURTHER_DEATHS),
    ],
)
def test_whoever_is_killed_while_waiting_there_is_one_result(
    start_hub: StartHub, tmp_path: Path, answering: str, role: str
) -> None:
    with vendor("slow", answering=answering, delay_seconds=3.0) as one:
        hub = start_hub(sections=sections(tmp_path, [one]))
        study = phantom(tmp_path / "study", slices=2)
        hub.send(list(study.files))
        waits = "running" if answering == "sync" else "waiting"
        wait_for(lambda: state_of(hub) == waits, "the request to wait")
        wait_for(lambda: bool(one.vendor.everything_received()), "the vendor to be asked")
        if role == "all":
            hub.kill()
            time.sleep(1.0)
            hub.start()
        else:
            hub.signal(role, signal.SIGKILL)
        hub.wait_for_study(study.study_instance_uid)
        assert state_of(hub) == DONE
        assert list(one.statistics["computed"].values()) == [1]
        assert len(hub.rows("SELECT 1 FROM results")) == 2  # its own, and the hub's own model's
        finished = hub.rows(
            "SELECT 1 FROM audit_log WHERE action = 'inference.finished' AND entity IN"
            " (SELECT 'request:' || request_id FROM requests WHERE model_id = 'v-slow')"
        )
        assert len(finished) == 1


def test_two_workers_on_postgresql_make_one_result(
    start_hub: StartHub, tmp_path: Path, postgres_database: str
) -> None:
    """Both die while the vendor works; its answer comes by webhook."""
    with vendor("slow", answering="webhook", delay_seconds=3.0) as one:
        hub = start_hub(
            sections=sections(tmp_path, [one]), database_url=postgres_database, workers=2
        )
        study = phantom(tmp_path / "study", slices=2)
        hub.send(list(study.files))
        wait_for(lambda: state_of(hub) == "waiting", "the request to wait")
        for role in ("worker-1", "worker-2"):
            hub.signal(role, signal.SIGKILL)
        hub.wait_for_study(study.study_instance_uid)
        assert state_of(hub) == DONE
        assert list(one.statistics["computed"].values()) == [1]
        assert len(hub.rows("SELECT 1 FROM results")) == 2
        assert webhooks(one) == [("answer", 200)]


def test_a_vendor_whose_model_is_suspended_is_told_and_not_asked_after_its_job(
    start_hub: StartHub, tmp_path: Path
) -> None:
    rarely = vendor("rarely", "never", runtime={"poll_seconds": 50.0})
    with vendor("never", runtime={"poll_seconds": 0.2}) as one, rarely as other:
        hub = start_hub(sections=sections(tmp_path, [one, other]))
        study = phantom(tmp_path / "study", slices=2)
        hub.send(list(study.files))

        def asked_after() -> int:
            return int(one.statistics["counts"].get("asked-after", 0))

        wait_for(lambda: asked_after() >= 2, "the vendor to be asked after the job")
        for each in (one, other):
            hub.caidx("model", "suspend", each.model_id, "--reason", "it mixes patients up")
        done = time.monotonic()
        for each in (one, other):
            wait_for(lambda each=each: state_of(hub, each.model_id) != "waiting", "the end", 5.0)
            wait_for(lambda each=each: cancelled(each) == 1, "the vendor to be told", 5.0)
        assert time.monotonic() - done < 5.0
        told = "SELECT outcome FROM audit_log WHERE action = 'inference.abandoned'"
        wait_for(lambda: len(hub.rows(told)) == 2, "the audit log to say so")
        assert {row["outcome"] for row in hub.rows(told)} == {"success"}
        assert "model.broken" not in hub.log_text()
        last = asked_after()
        timeline = hub.wait_for_study(study.study_instance_uid)
        ended = {row.model_id: (row.state, row.detail) for row in timeline.requests}
        assert ended["lung-density"][0] == DONE
        state, detail = ended[one.model_id]
        assert state == FAILED
        assert "is suspended by user:" in detail
        time.sleep(1.0)  # five times as long as it waited between two questions
        assert asked_after() == last


def cancelled(one: Misbehaving) -> int:
    return int(one.statistics["counts"].get("cancelled", 0))


def state_of(hub: RunningHub, model_id: str = "v-slow") -> str:
    rows = hub.rows("SELECT state FROM requests WHERE model_id = :m", m=model_id)
    return str(rows[0]["state"]) if rows else ""


# --- the same model, here and there -------------------------------------------------------------


def test_a_model_finds_the_same_at_its_vendors_as_here(start_hub: StartHub, tmp_path: Path) -> None:
    """Over mutual TLS, with an API key; the vendor retrieves the images and runs the graph."""
    authority = Authority(tmp_path / "tls")
    theirs, ours = authority.issue("vendor"), authority.issue("hub")
    options = (
        *("--model", "builtin:lung-density", "--api-key", API_KEY, "--answer", "poll"),
        *("--certificate", str(theirs.certificate), "--private-key", str(theirs.private_key)),
        *("--client-authorities", str(authority.certificate)),
    )
    tests_own = ssl.create_default_context(cafile=str(authority.certificate))
    tests_own.load_cert_chain(ours.certificate, ours.private_key)
    with simulated_vendor(tmp_path, "ok", *options, tls=tests_own) as peer:
        remote = lung_density_at(tmp_path / "model", peer.url, "remote", answer="poll")
        service = {
            "url": peer.url,
            "bearer_token": API_KEY,
            "ca_file": str(authority.certificate),
            "client_certificate": str(ours.certificate),
            "client_key": str(ours.private_key),
        }
        chosen = sections(tmp_path, [])
        chosen["models"].append({"package": str(remote)})
        chosen["routes"].append({**chosen["routes"][0], "name": "remote", "model": "remote"})
        chosen["adapters"]["vendor_http"] = {"services": [service]}
        hub = start_hub(sections=chosen)
        study = phantom(tmp_path / "study", slices=4)
        hub.send(list(study.files))
        hub.wait_for_study(study.study_instance_uid)
        found = {name: findings_of(hub, name) for name in ("lung-density", "remote")}
        assert found["remote"] == found["lung-density"]
        assert len(found["remote"]) == 3
        ran_on = {
            row["m"]: row["r"]
            for row in hub.rows(
                "SELECT json_extract(detail, '$.model') AS m, json_extract(detail, '$.ran_on') AS r"
                " FROM audit_log WHERE action = 'inference.finished'"
            )
        }
        assert ran_on["remote|1.0.0"].startswith("vendor_http https://127.0.0.1:")
        assert ran_on["lung-density|1.0.0"].startswith("onnx_local")
        assert len(hub.rows("SELECT 1 FROM audit_log WHERE action = 'images.retrieved'")) == 1


def findings_of(hub: RunningHub, model_id: str) -> list[dict[str, Any]]:
    """As recorded; the UIDs of what was found are each model's own."""
    (row,) = hub.rows(
        "SELECT r.findings AS f FROM results r JOIN requests q ON q.request_id = r.request_id"
        " WHERE q.model_id = :m",
        m=model_id,
    )
    found: list[dict[str, Any]] = orjson.loads(row["f"])
    return [{key: value for key, value in one.items() if key != "tracking_uid"} for one in found]
