"""The command line: answers for people and programs, exit statuses, one line per error."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from hub.bootstrap.hub import open_hub
from hub.cli import session as session_module
from hub.cli.app import run
from hub.config import read_settings
from hub.ports import Connector, SendTls, SentAs, SentFile
from hub.registry import Components, discover
from hub.store import audit, schema
from tests.unit.seeded import ASSESSED, DEAD, DELIVERED, REQUEST, UNMATCHED, seeded_database

CONFIG = """\
data: {data}
sources:
  - {{name: dicom, kind: dicom, port: {port}}}
web: {{port: {web_port}}}
models: [{{package: "builtin:lung-density"}}]
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Caidx:
    """Runs ``caidx`` with a configuration of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.file = folder / "caidx.yaml"
        self.port, self.web_port = free_port(), free_port()
        text = CONFIG.format(data=folder / "var", port=self.port, web_port=self.web_port)
        self.file.write_text(text)
        self._capsys = capsys
        self.err = ""

    def __call__(self, *arguments: str, status: int = 0) -> str:
        found = run(["--config", str(self.file), *arguments])
        captured = self._capsys.readouterr()
        self.err = captured.err
        assert found == status, captured.out + captured.err
        return captured.out

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", status=status))


@pytest.fixture
def caidx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Caidx:
    return Caidx(tmp_path, capsys)


@pytest.fixture
def seeded(caidx: Caidx) -> Caidx:
    (caidx.folder / "var").mkdir()
    seeded_database(caidx.folder / "var").close()
    return caidx


# --- config --------------------------------------------------------------------------------


def test_a_good_configuration_is_told_in_one_line(caidx: Caidx) -> None:
    assert "1 sources, 1 models, 1 routes, 1 destinations" in caidx("config", "check")
    assert caidx.json("config", "check")["ok"] is True


def test_each_mistake_is_one_line_and_the_exit_status_is_2(caidx: Caidx) -> None:
    caidx.file.write_text("web:\n  port: x\nlog:\n  levl: info\n")
    assert caidx("config", "check", status=2) == ""
    assert caidx.err.splitlines() == [
        f"error {caidx.file}:2: web.port: must be a whole number",
        f"error {caidx.file}:4: log.levl: is not a known field; did you mean level?",
    ]
    found = caidx.json("config", "check", status=2)
    assert [(p["line"], p["field"]) for p in found["problems"]] == [
        (2, "web.port"),
        (4, "log.levl"),
    ]


def test_a_model_that_no_package_ships_is_found_before_start(caidx: Caidx) -> None:
    caidx.file.write_text("models: [{package: 'builtin:nothing'}]\nroutes: []\n")
    caidx("config", "check", status=2)
    assert "no installed package ships it" in caidx.err


def test_a_route_to_a_model_that_is_not_registered_yet_is_a_warning(seeded: Caidx) -> None:
    seeded.file.write_text("models: []\nroutes:\n  - {name: a, when: 'true', model: later}\n")
    assert "0 models, 1 routes" in seeded("config", "check"), "the exit status is 0"
    (told,) = seeded.err.splitlines()
    assert told.startswith(f"warning {seeded.file}:3: routes.0.model: there is no model later; ")
    assert "route.model-unknown" in told
    assert "caidx model register" in told
    found = seeded.json("config", "check")
    assert (found["ok"], found["problems"]) == (True, [])
    (warning,) = found["warnings"]
    assert f"warning {warning}" == told


def test_mistakes_beside_such_a_route_are_mistakes(caidx: Caidx) -> None:
    caidx.file.write_text(
        "models: []\nroutes:\n  - {name: a, when: 'tru', model: later, deliver_to: [x]}\n"
    )
    fields = [one["field"] for one in caidx.json("config", "check", status=2)["problems"]]
    assert fields == ["routes.0.when", "routes.0.deliver_to.0"]


def test_nothing_is_said_of_routes_while_nobody_knows_which_models_are_registered(
    caidx: Caidx,
) -> None:
    nowhere = "postgresql://caidx@127.0.0.1:9/none"
    caidx.file.write_text(
        f"database: {{url: '{nowhere}'}}\n"
        "models: []\nroutes:\n  - {name: a, when: 'true', model: later}\n"
    )
    (warning,) = caidx.json("config", "check")["warnings"]
    assert warning.startswith("registered models are not known: ")


def test_a_configuration_that_is_not_there_is_told(caidx: Caidx) -> None:
    caidx.file = caidx.folder / "none.yaml"
    caidx("study", "list", status=2)
    assert "cannot be read: No such file or directory" in caidx.err


def test_secrets_are_not_shown(caidx: Caidx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    caidx.file.write_text(
        "destinations: [{name: a, kind: fhir, url: 'http://x', bearer_token: 'env:TOKEN'}]\n"
    )
    shown = caidx("config", "show")
    assert json.loads(shown)["destinations"][0]["options"]["url"] == "http://x"
    assert "s3cret" not in shown


def test_the_schemas_are_json_schemas(caidx: Caidx) -> None:
    assert "sources" in json.loads(caidx("config", "schema"))["properties"]
    assert "intended_use" in json.loads(caidx("model", "schema"))["properties"]


# --- what is in the store --------------------------------------------------------------------


def test_before_the_first_start_a_sentence_says_so_and_nothing_is_made(caidx: Caidx) -> None:
    caidx("study", "list", status=1)
    assert "no hub has run in" in caidx.err
    assert not (caidx.folder / "var").exists()


def test_studies_are_listed(seeded: Caidx) -> None:
    assert ASSESSED in seeded("study", "list")
    page = seeded.json("study", "list", "--state", "routed", "--limit", "1")
    assert page["total"] == 2
    assert len(page["items"]) == 1


def test_a_study_says_why_ai_was_or_was_not_run(seeded: Caidx) -> None:
    run_on = seeded("study", "show", ASSESSED)
    assert "rule chest-ct matches, lung-density 1.0 was asked: assessed" in run_on
    assert "study.received" in run_on
    assert "delivered" in run_on
    assert "C-STORE 0xA700" in run_on
    not_run = seeded("study", "show", UNMATCHED)
    assert "rule chest-ct does not match, AI was not run: not true: x" in not_run
    whole = seeded.json("study", "show", ASSESSED)
    assert whole["timeline"]["results"][0]["timings"] == {"inference": 0.25}


def test_a_study_that_never_arrived_is_a_failure(seeded: Caidx) -> None:
    seeded("study", "show", "9.9.9", status=1)
    assert seeded.err == "error no study 9.9.9 has arrived\n"


def test_requests_and_deliveries_can_be_narrowed_by_state(seeded: Caidx) -> None:
    assert seeded.json("request", "list")["items"][0]["request_id"] == REQUEST
    assert seeded.json("request", "list", "--state", "failed")["total"] == 0
    dead = seeded.json("delivery", "list", "--state", "dead")
    assert [item["delivery_id"] for item in dead["items"]] == [DEAD]
    seeded("delivery", "list", "--state", "lost", status=2)
    (alert,) = seeded.json("alert", "list")["items"]
    assert alert["kind"] == "delivery.dead"


def test_dead_letters_are_sent_again_in_the_name_of_the_user(seeded: Caidx) -> None:
    hub = open_hub(read_settings(seeded.file, discover()), discover())
    hub.migrate()
    hub.close()
    assert "1 dead letters are sent again" in seeded("delivery", "retry", "--all")
    assert seeded.json("delivery", "list", "--state", "dead")["total"] == 0
    last = seeded.json("audit", "list", "--limit", "1")[0]
    assert last["action"] == "delivery.resent"
    assert last["actor"].startswith("user:")
    seeded("audit", "verify")


def test_only_dead_letters_can_be_sent_again(seeded: Caidx) -> None:
    seeded("delivery", "retry", DELIVERED, status=1)
    assert seeded.err == f"error not dead letters: {DELIVERED}\n"
    seeded("delivery", "retry", status=2)
    seeded("request", "retry", REQUEST, status=1)
    assert seeded.err == f"error request {REQUEST} has not failed\n"


def test_what_does_not_exist_cannot_be_sent_or_asked_again(seeded: Caidx) -> None:
    seeded("delivery", "retry", "none", status=1)
    seeded("request", "retry", "none", status=1)
    assert seeded.err == "error there is no request none\n"


def test_the_audit_log_is_listed_and_proves_itself(seeded: Caidx) -> None:
    assert [e["sequence"] for e in seeded.json("audit", "list", "--limit", "2")] == [2, 3]
    assert [e["sequence"] for e in seeded.json("audit", "list", "--after", "1")] == [2, 3]
    assert len(seeded.json("audit", "list", "--study", ASSESSED)) == 3
    assert "3 rows, each proves itself" in seeded("audit", "verify")


def test_a_changed_audit_row_is_named(seeded: Caidx) -> None:
    path = seeded.folder / "var" / "caidx.sqlite"
    with sa.create_engine(f"sqlite:///{path}").begin() as connection:
        connection.execute(sa.text("DROP TRIGGER audit_log_no_update"))
        connection.execute(
            sa.update(schema.audit_log)
            .where(schema.audit_log.c.sequence == 2)
            .values(actor="nobody")
        )
    seeded("audit", "verify", status=1)
    assert "broken at row 2" in seeded.err
    assert seeded.json("audit", "verify", status=1)["broken"]["sequence"] == 2


def test_models_are_listed_and_shown(caidx: Caidx) -> None:
    assert caidx.json("model", "list")[0]["id"] == "lung-density"
    assert json.loads(caidx("model", "show", "lung-density"))["card"]["id"] == "lung-density"
    caidx("model", "show", "none", status=1)


# --- send ----------------------------------------------------------------------------------


def sending(monkeypatch: pytest.MonkeyPatch, answers: Sequence[SentAs]) -> dict[str, Any]:
    """Puts a sender in place of the DICOM connector's; returns what it was called with."""
    called: dict[str, Any] = {}

    def send_files(
        paths: Sequence[Path],
        *,
        on_progress: Callable[[SentFile], None] | None = None,
        **address: Any,
    ) -> list[SentFile]:
        called.update(address)
        sent = [SentFile(paths[0], answer, "C-STORE 0x0000") for answer in answers]
        for file in sent:
            assert on_progress is not None
            on_progress(file)
        return sent

    components = Components({"dicom": Connector(send_files=send_files)}, {})
    monkeypatch.setattr(session_module, "discover", lambda: components)
    return called


def test_files_are_sent_to_the_address(caidx: Caidx, monkeypatch: pytest.MonkeyPatch) -> None:
    called = sending(monkeypatch, [SentAs.STORED, SentAs.WARNING])
    out = caidx("send", str(caidx.file), "--to", "PACS@[::1]:104", "--from", "ME")
    assert "2 files to PACS@[::1]:104: 1 stored, 1 warning" in out
    assert called == {
        "host": "::1",
        "port": 104,
        "called_ae_title": "PACS",
        "calling_ae_title": "ME",
        "tls": None,
    }


@pytest.mark.parametrize(
    ("options", "tls"),
    [
        (["--tls"], SendTls()),
        (["--no-verify-host"], SendTls(verify_host=False)),
        (["--tls-trusted", "PEM"], SendTls(trusted=Path("PEM"))),
        (
            ["--tls-certificate", "PEM", "--tls-private-key", "PEM"],
            SendTls(certificate=Path("PEM"), private_key=Path("PEM")),
        ),
    ],
)
def test_any_tls_option_means_tls(
    caidx: Caidx, monkeypatch: pytest.MonkeyPatch, options: list[str], tls: SendTls
) -> None:
    called = sending(monkeypatch, [SentAs.STORED])
    monkeypatch.chdir(caidx.folder)
    Path("PEM").write_text("a certificate")
    caidx("send", str(caidx.file), "--to", "PACS@host:104", *options)
    assert called["tls"] == tls


def test_the_password_of_a_private_key_stands_in_the_environment(
    caidx: Caidx, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = sending(monkeypatch, [SentAs.STORED])
    monkeypatch.setenv("CAIDX_TLS_KEY_PASSWORD", "open sesame")
    caidx("send", str(caidx.file), "--to", "PACS@host:104", "--tls")
    assert called["tls"].private_key_password == "open sesame"
    assert "sesame" not in repr(called["tls"])
    caidx("send", str(caidx.file), "--to", "PACS@host:104")
    assert called["tls"] is None


def test_a_private_key_needs_its_certificate(caidx: Caidx) -> None:
    key = str(caidx.file)
    caidx("send", key, "--to", "PACS@host:104", "--tls-private-key", key, status=2)
    assert "--tls-certificate" in caidx.err


@pytest.mark.parametrize("answer", [SentAs.REFUSED, SentAs.FAILED, SentAs.SKIPPED])
def test_one_file_that_was_not_stored_makes_the_exit_status_1(
    caidx: Caidx, monkeypatch: pytest.MonkeyPatch, answer: SentAs
) -> None:
    sending(monkeypatch, [SentAs.STORED, answer])
    sent = caidx.json("send", str(caidx.file), "--to", "PACS@host:104", status=1)
    assert [file["sent_as"] for file in sent] == ["stored", answer.value]


def test_an_address_that_is_none_is_a_usage_error(caidx: Caidx) -> None:
    caidx("send", str(caidx.file), "--to", "localhost:104", status=2)
    assert "AET@host:port" in caidx.err
    caidx("send", "/not/there", "--to", "A@b:1", status=2)


def test_a_receiver_that_does_not_answer_is_one_line(caidx: Caidx) -> None:
    caidx("send", str(caidx.file), "--to", f"PACS@127.0.0.1:{free_port()}", status=1)
    assert "Traceback" not in caidx.err


# --- expected images -----------------------------------------------------------------------


def test_what_an_imaging_study_says_is_kept_under_the_users_name(
    seeded: Caidx, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "rita")
    file = shared_data / "fhir" / "r4-examples" / "ImagingStudy-example-xr.json"
    study = "2.16.124.113543.6003.1154777499.30246.19789.3503430046"
    assert seeded("study", "expect", str(file)).strip() == f"study {study}: 2 images"
    with closing(open_hub(read_settings(seeded.file, discover()), discover())) as hub:
        with hub.database.read() as connection:
            (row,) = connection.execute(sa.select(schema.expectations)).all()
        (event,) = audit.events(hub.database, limit=10, study_instance_uid=study)
    assert (row.source, row.number_of_instances) == ("order", 2)
    assert len(row.sop_instance_uids) == 2
    assert (event.actor, event.action) == ("user:rita", "study.expected")


def test_of_a_bundle_all_is_kept_or_nothing(seeded: Caidx, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {
        "resourceType": "ImagingStudy",
        "identifier": [{"system": "urn:dicom:uid", "value": "1.2.3"}],
        "numberOfInstances": 1,
    }
    bundle = {
        "resourceType": "Bundle",
        "entry": [{"resource": good}, {"resource": good | {"numberOfInstances": 0}}],
    }
    given = io.TextIOWrapper(io.BytesIO(json.dumps(bundle).encode()))
    monkeypatch.setattr(sys, "stdin", given)
    seeded("study", "expect", "-", status=1)
    assert "Bundle.entry[1]: ImagingStudy does not tell" in seeded.err
    with sa.create_engine(
        f"sqlite:///{seeded.folder / 'var' / 'caidx.sqlite'}"
    ).begin() as connection:
        assert connection.execute(sa.select(schema.expectations)).all() == []


# --- doctor --------------------------------------------------------------------------------


def test_doctor_finds_nothing_wrong_with_a_good_installation(caidx: Caidx) -> None:
    found = {finding["what"]: finding["state"] for finding in caidx.json("doctor")}
    assert found["source dicom"] == "ok"
    assert found["destination results"] == "ok"
    assert found["model lung-density"] == "ok"
    assert found["database"] == "warning"


def test_doctor_names_a_port_that_somebody_else_has(caidx: Caidx) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", caidx.port))
        taken.listen()
        findings = caidx.json("doctor", status=1)
    failed = [finding for finding in findings if finding["state"] == "failed"]
    assert [finding["what"] for finding in failed] == ["source dicom"]
    assert failed[0]["detail"] == f"127.0.0.1:{caidx.port}: Address already in use"


# --- serve ---------------------------------------------------------------------------------


def test_a_role_that_cannot_start_says_why_in_the_log(caidx: Caidx) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", caidx.web_port))
        taken.listen()
        command = [sys.executable, "-m", "hub", "-c", caidx.file, "serve", "--role", "web"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    line = json.loads(found.stderr.splitlines()[-1])
    assert line["event"] == "role.failed"
    assert line["reason"] == f"cannot listen on 127.0.0.1:{caidx.web_port}: Address already in use"


def test_the_web_role_answers_and_ends_when_told(caidx: Caidx) -> None:
    command = [sys.executable, "-m", "hub", "-c", caidx.file, "serve", "--role", "web"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            answer = wait_for(f"http://127.0.0.1:{caidx.web_port}/health/ready")
        finally:
            process.terminate()
        _, err = process.communicate(timeout=30)
    assert answer["status"] == "degraded"  # no receiver, no worker
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events == ["role.started"]


def wait_for(address: str) -> Any:
    deadline = time.monotonic() + 60
    while True:
        try:
            return httpx.get(address).json()
        except httpx.TransportError:
            assert time.monotonic() < deadline, f"{address} does not answer"
            time.sleep(0.1)


# --- the program ---------------------------------------------------------------------------


def test_usage_errors_have_exit_status_2(caidx: Caidx) -> None:
    caidx("nonsense", status=2)
    caidx("study", "show", status=2)


def test_the_module_runs_like_the_command() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "hub", "--version"], capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith("caidx ")


def test_the_shell_completes_commands() -> None:
    command = Path(sys.executable).parent / "caidx"
    completion = {"_CAIDX_COMPLETE": "complete_bash", "COMP_WORDS": "caidx st", "COMP_CWORD": "1"}
    found = subprocess.run(
        [command], capture_output=True, text=True, check=True, env={**os.environ, **completion}
    )
    assert found.stdout.split() == ["study"]
