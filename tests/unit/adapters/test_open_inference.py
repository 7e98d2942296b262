"""The adapter against a strict server of the protocol: forms of tensors, credentials, faults."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr, ValidationError

from hub.config import load_settings
from hub.domain.inference import InferenceResult
from hub.domain.model_runtime import OpenInferenceRuntime
from hub.errors import ConfigError, RejectedError, TransientError
from hub.ports import AdapterContext, HealthState, ModelPackage
from hub.registry import discover
from model_adapters.onnx_local import ADAPTER as ONNX_LOCAL
from model_adapters.onnx_local.config import OnnxLocalConfig
from model_adapters.open_inference import ADAPTER
from model_adapters.open_inference.adapter import OpenInferenceAdapter
from model_adapters.open_inference.config import (
    OpenInferenceConfig,
    ServerConfig,
    origin_of,
    server_for,
)
from tests.peers.certificates import Authority
from tests.peers.inference_script import InferenceScript, inference_script
from tests.unit.adapters.toy_models import Files, WallClock, graph, request, write_package
from tests.unit.imaging import ct_series, ct_slice

SECRET = "s3cret-of-the-server"
LOOPBACK = ("127.0.0.0/8",)


@dataclass
class Site:
    """A server with the toy model, an adapter that knows it, and an object store."""

    script: InferenceScript
    store: Files
    local: ModelPackage
    adapter: OpenInferenceAdapter

    def package(self, **runtime: Any) -> ModelPackage:
        """The toy model on the server; each with changes is another package."""
        inputs = self.local.card.runtime.inputs  # type: ignore[union-attr]
        asked = OpenInferenceRuntime(
            kind="open_inference", url=self.script.url, model_name="toy", inputs=inputs
        )
        key = replace(self.local.key, sha256=repr(sorted(runtime.items())))
        return replace(
            self.local, key=key, card=replace(self.local.card, runtime=replace(asked, **runtime))
        )

    def ask(self, package: ModelPackage) -> InferenceResult:
        """The answer about two slices."""
        result = self.adapter.infer(request(self.store, files(), package.key))
        assert isinstance(result, InferenceResult), result
        return result

    def answered(self, **runtime: Any) -> InferenceResult:
        package = self.package(**runtime)
        self.adapter.load(package)
        try:
            return self.ask(package)
        finally:
            self.adapter.unload(package.key)

    def refused(self, **runtime: Any) -> dict[str, str]:
        """Why loading is refused: field -> message."""
        with pytest.raises(ConfigError) as caught:
            self.adapter.load(self.package(**runtime))
        told: dict[str, str] = {}
        for problem in caught.value.problems:
            told[problem.field] = f"{told.get(problem.field, '')}{problem.message}"
        return told


def files() -> list[bytes]:
    pixels = np.full((4, 6), 1023, np.int16)
    pixels[1, 2] = 1029
    return [ct_slice(number, pixels) for number in range(2)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "objects").mkdir()
    local = write_package(folder / "package", graph())
    store = Files(folder / "objects")
    with inference_script(folder / "package" / "toy.onnx", "toy") as script:
        adapter = built(store, servers=[ServerConfig(url=script.url)])
        yield Site(script, store, local, adapter)
        adapter.close()


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    yield running
    script = running.script
    script.version, script.takes, script.answers = "1", ("json", "binary"), "asked"
    for changed in (script.metadata, script.answer, script.status, script.requests):
        changed.clear()


def built(store: Files, networks: tuple[str, ...] = (), **config: Any) -> OpenInferenceAdapter:
    context = AdapterContext("open_inference", store, WallClock(), private_networks=networks)
    made = ADAPTER.build(OpenInferenceConfig(processes=1, **config), context)
    assert isinstance(made, OpenInferenceAdapter)
    return made


# --- the forms of tensors ----------------------------------------------------------------


@pytest.mark.parametrize("asked", ["json", "binary"])
@pytest.mark.parametrize("answers", ["asked", "json", "binary"])
def test_whatever_form_goes_and_comes_the_answer_is_that_of_the_local_graph(
    site: Site, asked: str, answers: str
) -> None:
    context = AdapterContext("onnx_local", site.store, WallClock())
    local = ONNX_LOCAL.build(OnnxLocalConfig(processes=1), context)
    try:
        local.load(site.local)
        here = local.infer(request(site.store, files(), site.local.key))
    finally:
        local.close()
    site.script.takes, site.script.answers = (asked,), answers
    there = site.answered(tensors=asked)
    assert isinstance(here, InferenceResult)
    assert here.region is not None
    assert 1 in here.region.labels
    assert (there.findings, there.region) == (here.findings, here.region)
    assert there.ran_on == f"open_inference {site.script.url} toy/1"
    posted = [asked for asked in site.script.requests if asked[":path"].endswith("/infer")]
    kind = {"json": "application/json", "binary": "application/octet-stream"}[asked]
    assert [one["content-type"] for one in posted] == [kind]


def test_one_connection_is_kept_for_all_of_a_model(site: Site) -> None:
    package = site.package(timeout_seconds=11.0)
    site.adapter.load(package)
    for _ in range(3):
        site.ask(package)
    assert len(site.script.requests) == 7
    assert len({asked[":connection"] for asked in site.script.requests}) == 1


def test_an_answer_has_a_longest_length(site: Site) -> None:
    adapter = built(site.store, servers=[ServerConfig(url=site.script.url)], answer_limit_mb=1)
    other = replace(site, adapter=adapter)
    try:
        site.script.answer["parameters"] = {"padding": "x" * (1 << 20)}
        with pytest.raises(RejectedError, match="is too long"):
            other.answered()
    finally:
        adapter.close()


# --- what the server says of the model ---------------------------------------------------

X = {"name": "x", "datatype": "FP32", "shape": [1, -1, -1, -1]}
TOTAL = {"name": "total", "datatype": "FP32", "shape": []}
LABELS = {"name": "labels", "datatype": "UINT8", "shape": [1, -1, -1, -1]}


@pytest.mark.parametrize(
    ("told", "field", "said"),
    [
        ({"name": "tou"}, "runtime.model_name", "describes another model"),
        ({"inputs": [X | {"name": "y"}]}, "runtime.inputs", "no input x; its inputs are y"),
        ({"inputs": [X, X | {"name": "y"}]}, "runtime.inputs", "nothing feeds the model's input y"),
        ({"inputs": [X | {"datatype": "FP16"}]}, "runtime.inputs.x", "takes float16, not float32"),
        ({"inputs": [X | {"datatype": "BYTES"}]}, "runtime.inputs.x", "takes BYTES, not float32"),
        ({"inputs": [X | {"shape": [1, -1, -1]}]}, "runtime.inputs.x", "3 axes, axes names 4"),
        (
            {"inputs": [X | {"shape": [4, 8, 8, 8]}]},
            "runtime.inputs.x",
            "axis 0 of the model has 4",
        ),
        ({"outputs": [TOTAL]}, "output.region.output", "no output labels; known are total"),
        ({"outputs": [LABELS]}, "output.findings.0.output", "no output total; known are labels"),
        (
            {"outputs": [TOTAL, LABELS | {"datatype": "FP32"}]},
            "output.region.output",
            "holds whole numbers, not float32",
        ),
        ({"outputs": [TOTAL, LABELS | {"shape": [2]}]}, "output.region.axes", "gives 1 axes"),
        ({"outputs": [LABELS, TOTAL | {"datatype": "BYTES"}]}, "output", "total is BYTES"),
        ({"outputs": [LABELS, TOTAL | {"datatype": "FP16"}]}, "runtime.tensors", "must be binary"),
        ({"outputs": []}, "runtime.url", "describes no outputs"),
        ({"inputs": "x"}, "runtime.url", "describes no inputs"),
    ],
)
def test_a_model_that_is_not_what_its_manifest_says_is_refused_by_field(
    site: Site, told: dict[str, Any], field: str, said: str
) -> None:
    site.script.metadata |= told
    found = site.refused()
    assert said in found[field]


def test_a_version_is_one_that_the_server_has(site: Site) -> None:
    site.script.metadata |= {"versions": ["1", "2"]}
    assert site.answered(model_version="1").ran_on.endswith(" toy/1")
    assert (
        "does not serve the model toy in version 3"
        in site.refused(model_version="3")["runtime.model_version"]
    )
    site.script.metadata |= {"versions": ["4"]}
    assert site.refused(model_version="1") == {"runtime.model_version": "the server has 4"}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/live", "is not live"),
        ("/health/ready", "is not ready"),
        ("/toy/ready", "has not got the model toy ready"),
        ("/models/toy", "answered 503"),
    ],
)
def test_a_server_that_is_not_ready_is_asked_again_later(site: Site, path: str, said: str) -> None:
    site.script.status[path] = (503, {})
    with pytest.raises(TransientError, match=said):
        site.adapter.load(site.package())
    assert site.adapter.health().state is HealthState.DEGRADED
    site.script.status.clear()
    site.answered()
    assert site.adapter.health().state is HealthState.HEALTHY


@pytest.mark.parametrize("told", ["1", ""])
def test_a_model_that_changes_is_never_used_silently(site: Site, told: str) -> None:
    """Whether the server tells its version beforehand or in its first answer only."""
    site.script.metadata |= {} if told else {"versions": []}
    package = site.package(timeout_seconds=21.0 + len(told))
    site.adapter.load(package)
    assert site.ask(package).ran_on.endswith(" toy/1")
    site.script.version = "2"
    with pytest.raises(TransientError, match="now runs version 2 of the model, it was 1"):
        site.ask(package)
    site.script.version = "1"
    assert site.ask(package).ran_on.endswith(" toy/1")


def test_a_named_version_is_the_only_one(site: Site) -> None:
    package = site.package(model_version="1", timeout_seconds=23.0)
    site.adapter.load(package)
    site.ask(package)
    site.script.answer["model_version"] = "2"
    with pytest.raises(TransientError, match="another version than was asked for"):
        site.ask(package)
    del site.script.answer["model_version"]
    site.script.version = "2"
    with pytest.raises(TransientError, match="does not serve the model toy in version 1"):
        site.ask(package)


# --- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "kind", "said"),
    [
        (400, {}, RejectedError, "answered 400: it does not take this input"),
        (413, {}, RejectedError, "answered 413"),
        (422, {}, RejectedError, "answered 422"),
        (302, {"Location": "http://127.0.0.1:1/"}, RejectedError, "answered 302"),
        (201, {}, RejectedError, "answered 201"),
        (401, {}, TransientError, "does not accept who we are"),
        (403, {}, TransientError, "does not accept who we are"),
        (404, {}, TransientError, "does not serve the model toy"),
        (408, {}, TransientError, "answered 408"),
        (429, {"Retry-After": "7"}, TransientError, "answered 429"),
        (500, {}, TransientError, "answered 500"),
        (503, {"Retry-After": "7"}, TransientError, "answered 503"),
    ],
)
def test_what_a_status_means(
    site: Site, status: int, headers: dict[str, str], kind: type[Exception], said: str
) -> None:
    package = site.package(timeout_seconds=31.0)
    site.adapter.load(package)
    site.script.status["/infer"] = (status, headers)
    with pytest.raises(kind, match=said) as caught:
        site.ask(package)
    assert "CANARY" not in str(caught.value)
    if kind is TransientError:
        assert getattr(caught.value, "retry_after") == (7.0 if headers else None)  # noqa: B009
    site.script.status.clear()
    site.ask(package)


def test_an_unknown_model_may_be_told_with_400(site: Site) -> None:
    """As Triton does."""
    site.script.status["/models/toy"] = (400, {})
    assert (
        "does not serve the model toy" in site.refused(timeout_seconds=41.0)["runtime.model_name"]
    )
    site.script.status.clear()
    package = site.package(timeout_seconds=41.0)
    site.adapter.load(package)
    site.script.status |= {"/infer": (400, {}), "/ready": (400, {})}
    with pytest.raises(TransientError, match="does not serve the model toy"):
        site.ask(package)


def test_what_is_packed_is_not_unpacked(site: Site) -> None:
    package = site.package(timeout_seconds=42.0)
    site.adapter.load(package)
    site.script.status["/infer"] = (200, {"Content-Encoding": "gzip"})
    with pytest.raises(RejectedError, match="packed its answer"):
        site.ask(package)
    assert {asked["accept-encoding"] for asked in site.script.requests} == {"identity"}


def test_a_broken_answer_is_no_result(site: Site) -> None:
    package = site.package(timeout_seconds=43.0)
    site.adapter.load(package)
    site.script.answer["model_name"] = "tou"
    with pytest.raises(RejectedError, match="from another model"):
        site.ask(package)


# --- who we are, and whom we may call ----------------------------------------------------


def test_only_a_configured_server_gets_credentials(site: Site) -> None:
    token = SecretStr(SECRET)
    known = replace(
        site,
        adapter=built(site.store, servers=[ServerConfig(url=site.script.url, bearer_token=token)]),
    )
    elsewhere = ServerConfig(url=f"{site.script.url}/other", bearer_token=token)
    stranger = replace(site, adapter=built(site.store, LOOPBACK, servers=[elsewhere]))
    try:
        known.answered()
        assert {asked["authorization"] for asked in site.script.requests} == {f"Bearer {SECRET}"}
        site.script.requests.clear()
        stranger.answered()
        assert not any("authorization" in asked for asked in site.script.requests)
    finally:
        known.adapter.close()
        stranger.adapter.close()


def test_a_server_of_one_vendor_is_not_asked_for_another(site: Site) -> None:
    token, url = SecretStr(SECRET), site.script.url
    site.script.requests.clear()
    others = ServerConfig(url=url, bearer_token=token, vendor="Another vendor")
    refused = replace(site, adapter=built(site.store, LOOPBACK, servers=[others]))
    try:
        with pytest.raises(ConfigError, match="models of another vendor"):
            refused.answered()
        assert site.script.requests == [], "it is not even looked for"
    finally:
        refused.adapter.close()


def test_a_secret_is_in_no_list_of_processes_and_no_description(site: Site) -> None:
    servers = [ServerConfig(url=site.script.url, bearer_token=SecretStr(SECRET))]
    adapter = built(site.store, servers=servers)
    try:
        replace(site, adapter=adapter).answered()
        pids: list[int] = []
        adapter._pool.each_idle(lambda worker: pids.append(worker.pid))
        (pid,) = pids
        for name in ("cmdline", "environ"):
            assert SECRET.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        assert SECRET not in repr(adapter._kind)
        assert SECRET not in repr(adapter._kind.settings)
    finally:
        adapter.close()


def test_a_server_that_does_not_know_us_is_told_at_once(site: Site) -> None:
    site.script.status["/live"] = (401, {})
    assert "does not accept who we are" in site.refused()["runtime.url"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"])
def test_a_manifest_leads_to_no_private_address(site: Site, url: str) -> None:
    site.adapter.load(site.package(timeout_seconds=51.0))  # that one the operator named
    said = site.refused(url=url)["runtime.url"]
    assert "not public" in said
    assert "outbound.private_networks" in said


def test_a_private_network_that_the_operator_named_is_let_through(site: Site) -> None:
    adapter = built(site.store, LOOPBACK)
    try:
        replace(site, adapter=adapter).answered()
    finally:
        adapter.close()


def test_a_network_that_is_none_is_told_when_the_hub_starts(site: Site) -> None:
    with pytest.raises(ConfigError, match=r"outbound\.private_networks"):
        built(site.store, ("ten",))


def test_both_sides_show_certificates(site: Site, tmp_path: Path) -> None:
    """Mutual TLS, by the operator's own authority."""
    authority = Authority(tmp_path)
    own, ours = authority.issue("server"), authority.issue("hub")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(own.certificate, own.private_key)
    tls.load_verify_locations(authority.certificate)
    tls.verify_mode = ssl.CERT_REQUIRED
    graph_file = site.local.artefacts["toy.onnx"]
    with inference_script(graph_file, "toy", tls) as script:
        trusted = ServerConfig(url=script.url, ca_file=authority.certificate)
        whole = {"client_certificate": ours.certificate, "client_key": ours.private_key}
        known = trusted.model_copy(update=whole)
        for servers, accepted in (((known,), True), ((trusted,), False), ((), False)):
            adapter = built(site.store, LOOPBACK, servers=servers)
            try:
                there = replace(site, script=script, adapter=adapter)
                if accepted:
                    assert there.answered().ran_on.startswith(f"open_inference {script.url} ")
                else:
                    with pytest.raises(TransientError, match=r"Error$"):
                        there.answered()
            finally:
                adapter.close()


def test_secrets_of_the_configuration_are_taken_from_where_it_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOY_TOKEN", SECRET)
    text = f"""
data: {tmp_path}
adapters:
  open_inference:
    processes: 1
    servers:
      - {{url: https://inference.example/base, bearer_token: env:TOY_TOKEN}}
"""
    settings = load_settings(text, "caidx.yaml", discover())
    (server,) = settings.adapters["open_inference"].servers
    assert server.bearer_token.get_secret_value() == SECRET
    assert SECRET not in repr(settings)


def test_images_do_not_leave_the_machine_unencrypted(site: Site) -> None:
    said = site.refused(url="http://inference.example")["runtime.url"]
    assert "must be https" in said
    assert "allow_http" in said
    with pytest.raises(ValidationError, match="allow_http"):
        ServerConfig(url="http://inference.example")
    assert ServerConfig(url="http://inference.example", allow_http=True).allow_http


def test_a_server_stands_in_the_configuration_once() -> None:
    server = ServerConfig(url="https://inference.example")
    with pytest.raises(ValidationError, match="two have the same url"):
        OpenInferenceConfig(servers=(server, server))


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://a/v", 0),
        ("http://a/v/w", 0),
        ("http://A:80/v/", 0),
        ("http://a/v/deep/er", 1),
        ("http://a/vw", None),
        ("http://a/", None),
        ("http://a/v/../x", None),
        ("http://a/v/%2e%2e/x", None),
        ("https://a/v", None),
        ("http://a:81/v", None),
        ("http://a.b/v", None),
        ("http://b:8443", 2),
    ],
)
def test_servers_are_matched_by_origin_and_whole_parts_of_the_path(
    url: str, found: int | None
) -> None:
    urls = ("http://a/v", "http://a/v/deep", "http://b:8443/")
    servers = tuple(ServerConfig(url=one, allow_http=True) for one in urls)
    expected = None if found is None else servers[found]
    assert server_for(url, servers) is expected


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Host.example/deep", "https://host.example"),
        ("https://host:443", "https://host"),
        ("http://host:8000/v", "http://host:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_what_the_audit_calls_a_server(url: str, origin: str) -> None:
    assert origin_of(url) == origin


def test_unsuitable_input_never_reaches_the_server(site: Site) -> None:
    package = site.package(timeout_seconds=61.0)
    site.adapter.load(package)
    site.script.requests.clear()
    answer = site.adapter.infer(request(site.store, ct_series([0, 1, 3]), package.key))
    assert not isinstance(answer, InferenceResult)
    assert site.script.requests == []
