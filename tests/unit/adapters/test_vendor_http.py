"""A vendor's service: every status, every misbehaviour, every credential."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from hub.config import load_settings
from hub.domain.coding import Code
from hub.domain.finding import Finding, Presence
from hub.domain.inference import (
    Deferred,
    InferenceRequest,
    InferenceResult,
    ModelKey,
    Unsuitable,
)
from hub.domain.model_card import ModelCard
from hub.domain.model_output import ClassFinding, DetectionsFinding, PresenceFinding
from hub.domain.model_runtime import VendorHttpRuntime
from hub.errors import ConfigError, JobLostError, RejectedError, TransientError
from hub.formats.contract.messages import encode_answer, encode_deferred, encode_failed
from hub.formats.manifest.checks import card_faults
from hub.ports import AdapterContext, ModelPackage, Resuming, Retrieval
from hub.registry import discover
from hub.transport.webhook_signature import key_of, signed_headers
from model_adapters.vendor_http import ADAPTER
from model_adapters.vendor_http.adapter import VendorHttpAdapter, check
from model_adapters.vendor_http.callbacks import Callbacks
from model_adapters.vendor_http.config import ServiceConfig, VendorHttpConfig
from model_adapters.vendor_http.promise import check_promise
from tests.builders import assessed, chest_ct_study, model_card, request_for
from tests.fakes import FrozenClock
from tests.peers.http_script import HttpScript, Reply, scripted

__all__ = ["scripted"]

Script = Callable[..., HttpScript]
CLOCK = FrozenClock()
LOCAL = ("127.0.0.1", "::1")
KEY = ModelKey("lung-density", "1.2.0", "ab" * 32)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MINUTES = timedelta(minutes=15)


class Door:
    """`hub.ports.VendorDoor`"""

    def callback_url(self, request_id: str) -> str:
        return f"https://hub.example/api/v1/callbacks/{request_id}"

    def images(self, request: InferenceRequest, valid_until: datetime) -> Retrieval:
        url = f"https://hub.example/api/v1/requests/{request.request_id}/dicom-web"
        return Retrieval(url, "Bearer r.CANARY", valid_until)


def card(url: str, **runtime: Any) -> ModelCard:
    told = {"poll_seconds": 2.0, "timeout_seconds": 5.0, **runtime}
    return replace(model_card(), runtime=VendorHttpRuntime(kind="vendor_http", url=url, **told))


def package(url: str, **runtime: Any) -> ModelPackage:
    return ModelPackage(KEY, card(url, **runtime), Path("/models/lung"))


def context(*, private: tuple[str, ...] = LOCAL, door: Door | None = None) -> AdapterContext:
    class NoObjects:
        def read(self, location: object) -> bytes:
            raise AssertionError(location)

    return AdapterContext("vendor_http", NoObjects(), CLOCK, door or Door(), private)


@dataclass
class Asked:
    """An adapter with one model, and a request to it."""

    adapter: VendorHttpAdapter
    request: InferenceRequest
    server: HttpScript

    def infer(self) -> InferenceResult | Unsuitable | Deferred:
        return self.adapter.infer(self.request)

    def resume(
        self, job: str = "job-1", answer: bytes | None = None
    ) -> InferenceResult | Unsuitable | Deferred:
        deferred = Deferred(self.request.request_id, job, CLOCK.now())
        return self.adapter.resume(self.request, deferred, answer)


REQUEST = request_for(chest_ct_study())


def result(request: InferenceRequest = REQUEST) -> InferenceResult:
    whole = assessed(request, with_region=False)
    return replace(whole, findings=whole.findings[:1])


def said(answer: bytes, status: int = 200, **headers: str) -> Reply:
    return status, answer, headers


OK = said(encode_answer(result()))


def deferred(job: str = "job-1", seconds: float | None = None) -> bytes:
    return encode_deferred(REQUEST.request_id, job, seconds)


def asked(server: HttpScript, *, service: dict[str, Any] | None = None, **runtime: Any) -> Asked:
    options = {"url": server.url, "webhook_secrets": [SECRET], **(service or {})}
    config = VendorHttpConfig.model_validate({"services": [options]})
    adapter = VendorHttpAdapter(config, context())
    adapter.load(package(f"{server.url}/lung", **runtime))
    request = replace(REQUEST, deadline=CLOCK.now() + MINUTES)
    return Asked(adapter, request, server)


# --- asking -----------------------------------------------------------------------------------


def test_the_answer_in_the_response_is_the_result(scripted: Script) -> None:
    this = asked(scripted(OK))
    got = this.infer()
    assert isinstance(got, InferenceResult)
    assert [f.value for f in got.findings] == [5312.4]
    assert got.ran_on == f"vendor_http {this.server.url.removesuffix('/base')}"


def test_what_is_sent_is_the_contract_with_where_the_images_are(scripted: Script) -> None:
    this = asked(scripted(OK))
    this.infer()
    (headers,) = this.server.requests
    assert (headers[":method"], headers[":path"]) == ("POST", "/base/lung")
    assert headers["idempotency-key"] == REQUEST.request_id
    assert headers["content-type"] == "application/json"
    message = json.loads(this.server.bodies[0])
    assert message["request_id"] == REQUEST.request_id
    assert message["constraints"]["deadline"] == "2026-01-02T03:19:05Z"
    assert message["inputs"][0]["retrieve"]["authorization"] == "Bearer r.CANARY"
    assert message["inputs"][0]["retrieve"]["valid_until"] == "2026-01-02T03:19:05Z"
    assert "callback" not in message


def test_only_who_calls_back_is_told_where(scripted: Script) -> None:
    this = asked(scripted(said(deferred(), 202)), answer="webhook")
    this.infer()
    message = json.loads(this.server.bodies[0])
    assert message["callback"]["url"].endswith(f"/callbacks/{REQUEST.request_id}")


def test_unsuitable_is_an_answer_and_says_whose(scripted: Script) -> None:
    answer = Unsuitable(REQUEST.request_id, ("Too thick.",))
    this = asked(scripted(said(encode_answer(answer))), answer="poll")
    root = f"vendor_http {this.server.url.removesuffix('/base')}"
    assert this.infer() == replace(answer, ran_on=root)
    assert this.resume() == replace(answer, ran_on=f"{root} job job-1")
    posted = this.resume(answer=encode_answer(answer))
    assert posted == replace(answer, ran_on=f"{root} job job-1")


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (said(b"", 400), RejectedError, "HTTP 400"),
        (said(b"", 404), RejectedError, "HTTP 404"),
        (said(b"", 422), RejectedError, "HTTP 422"),
        (said(b"", 401), TransientError, "does not let the hub in"),
        (said(b"", 403), TransientError, "does not let the hub in"),
        (said(b"", 408), TransientError, "HTTP 408"),
        (said(b"", 425), TransientError, "HTTP 425"),
        (said(b"", 429), TransientError, "HTTP 429"),
        (said(b"", 500), TransientError, "HTTP 500"),
        (said(b"", 503), TransientError, "HTTP 503"),
        (said(b"", 301, Location="/elsewhere"), RejectedError, "redirects are not followed"),
        (said(b"", 307, Location="http://169.254.169.254/"), RejectedError, "redirects"),
        (said(b"", 204), RejectedError, "is not JSON"),
        (said(b"<html>CANARY"), RejectedError, "is not JSON"),
        (said(b"{}"), RejectedError, "contract"),
        (said(b'{"contract": "1.0", "status": "CANARY"}'), RejectedError, "status: must be"),
        (said(b"[" * 100_000), RejectedError, "is not JSON"),
    ],
)
def test_what_is_no_answer(
    scripted: Script, reply: Reply, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        asked(scripted(reply)).infer()
    assert "CANARY" not in str(caught.value)
    assert not isinstance(caught.value, JobLostError)


def test_a_vendor_that_is_busy_says_for_how_long(scripted: Script) -> None:
    with pytest.raises(TransientError) as caught:
        asked(scripted(said(b"", 429, **{"Retry-After": "17"}))).infer()
    assert caught.value.retry_after == 17


def test_a_field_that_is_wrong_is_named_and_not_repeated(scripted: Script) -> None:
    message = json.loads(OK[1])
    message["findings"][0]["probability"] = "CANARY"
    with pytest.raises(RejectedError, match=r"findings\.0\.probability") as caught:
        asked(scripted(said(json.dumps(message).encode()))).infer()
    assert "CANARY" not in str(caught.value)


def test_a_vendor_that_cannot_is_believed(scripted: Script) -> None:
    never = encode_failed(REQUEST.request_id, "images-not-readable", retryable=False)
    with pytest.raises(RejectedError, match="images-not-readable"):
        asked(scripted(said(never))).infer()
    later = encode_failed(REQUEST.request_id, "overloaded", retryable=True, retry_after_seconds=9.0)
    with pytest.raises(TransientError, match="overloaded") as caught:
        asked(scripted(said(later))).infer()
    assert caught.value.retry_after == 9.0


def test_an_answer_that_is_too_long_is_not_read_to_its_end(scripted: Script) -> None:
    with pytest.raises(TransientError, match="too long"):
        asked(scripted(said(b" " * (17 << 20)))).infer()


# --- later ------------------------------------------------------------------------------------


def test_later_is_a_job_to_ask_after(scripted: Script) -> None:
    this = asked(scripted(said(deferred("job-7"), 202)), answer="poll")
    soon = CLOCK.now() + timedelta(seconds=2)
    assert this.infer() == Deferred(REQUEST.request_id, "job-7", soon)
    assert isinstance(this.adapter, Resuming)


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        (deferred(), {}, 2.0),
        (deferred(), {"Retry-After": "30"}, 30.0),
        (deferred(seconds=40.0), {"Retry-After": "30"}, 40.0),
        (deferred(seconds=0.0), {}, 1.0),
    ],
)
def test_the_vendor_says_when(
    scripted: Script, body: bytes, headers: dict[str, str], seconds: float
) -> None:
    got = asked(scripted(said(body, 202, **headers)), answer="poll").infer()
    assert isinstance(got, Deferred)
    assert got.not_before - CLOCK.now() == timedelta(seconds=seconds)


def test_who_calls_back_is_asked_late_or_never(scripted: Script) -> None:
    with_job = asked(scripted(said(deferred("job-1", 1.0), 202)), answer="webhook").infer()
    assert isinstance(with_job, Deferred)
    assert with_job.not_before == CLOCK.now() + timedelta(seconds=60)
    this = asked(scripted(said(deferred(""), 202)), answer="webhook")
    without = this.infer()
    assert without == Deferred(REQUEST.request_id, "", CLOCK.now() + MINUTES)
    assert this.resume("") == without  # its deadline ends it
    assert len(this.server.requests) == 1


def test_a_job_without_a_name_cannot_be_asked_after(scripted: Script) -> None:
    with pytest.raises(RejectedError, match="job_reference"):
        asked(scripted(said(deferred(""), 202)), answer="poll").infer()


@pytest.mark.parametrize("job", ["../admin", "a/b", "http://169.254.169.254/", "a?b", "..", "%2e"])
def test_a_job_is_nowhere_else(scripted: Script, job: str) -> None:
    told = {"contract": "1.0", "request_id": REQUEST.request_id, "status": "deferred"}
    body = json.dumps(told | {"job_reference": job}).encode()
    with pytest.raises(RejectedError, match="job_reference"):
        asked(scripted(said(body, 202)), answer="poll").infer()


def test_a_job_is_asked_after(scripted: Script) -> None:
    this = asked(scripted(said(deferred(), 202), OK), answer="poll")
    assert isinstance(this.resume(), Deferred)
    got = this.resume()
    assert isinstance(got, InferenceResult)
    assert got.ran_on.endswith(" job job-1")
    paths = [(r[":method"], r[":path"]) for r in this.server.requests]
    assert paths == [("GET", "/base/lung/job-1")] * 2


@pytest.mark.parametrize(
    ("reply", "error", "lost"),
    [
        (said(b"", 404), TransientError, True),
        (said(b"", 410), TransientError, True),
        (said(b"", 503), TransientError, False),
        (said(b"", 401), TransientError, False),
        (said(b"", 400), RejectedError, False),
        (
            said(encode_failed(REQUEST.request_id, "internal-error", retryable=True)),
            JobLostError,
            True,
        ),
        (
            said(encode_failed(REQUEST.request_id, "internal-error", retryable=False)),
            RejectedError,
            False,
        ),
        (said(b"{}"), RejectedError, False),
    ],
)
def test_what_becomes_of_a_job(
    scripted: Script, reply: Reply, error: type[Exception], lost: bool
) -> None:
    with pytest.raises(error) as caught:
        asked(scripted(reply), answer="poll").resume()
    assert isinstance(caught.value, JobLostError) is lost


def test_the_answer_that_was_posted_is_taken_without_asking(scripted: Script) -> None:
    this = asked(scripted(said(b"", 500)), answer="webhook")
    got = this.resume(answer=OK[1])
    assert isinstance(got, InferenceResult)
    assert this.server.requests == []
    with pytest.raises(RejectedError, match="status"):
        this.resume(answer=deferred())
    with pytest.raises(JobLostError):
        this.resume(answer=encode_failed(REQUEST.request_id, "overloaded", retryable=True))
    with pytest.raises(RejectedError, match="is not JSON"):
        this.resume(answer=b"\x00")


@pytest.mark.parametrize("status", [200, 204, 302, 401, 404, 500])
def test_whoever_is_told_that_nobody_waits_may_answer_as_he_likes(
    scripted: Script, status: int
) -> None:
    this = asked(scripted(said(b"", status)), answer="poll")
    job = Deferred(REQUEST.request_id, "job-1", CLOCK.now())
    this.adapter.abandon(KEY, job)
    this.adapter.abandon(KEY, replace(job, job_reference=""))
    told = {(r[":method"], r[":path"]) for r in this.server.requests}
    assert told == {("DELETE", "/base/lung/job-1")}


def test_whoever_does_not_answer_that_is_told_again(scripted: Script) -> None:
    cut_off = {"Content-Length": "9"}
    this = asked(scripted((200, b"x", cut_off)), answer="poll")
    job = Deferred(REQUEST.request_id, "job-1", CLOCK.now())
    with pytest.raises(TransientError):
        this.adapter.abandon(KEY, job)
    this.adapter.unload(KEY)
    with pytest.raises(TransientError, match="is not loaded"):
        this.adapter.abandon(KEY, job)


def test_a_model_that_is_not_loaded_is_not_asked(scripted: Script) -> None:
    this = asked(scripted(OK))
    this.adapter.unload(KEY)
    with pytest.raises(TransientError, match="is not loaded"):
        this.infer()


# --- who we are ---------------------------------------------------------------------------------


def test_an_api_key_is_sent(scripted: Script) -> None:
    this = asked(scripted(OK), service={"headers": {"X-Api-Key": "k"}, "bearer_token": "b"})
    this.infer()
    assert this.server.requests[0]["x-api-key"] == "k"
    assert this.server.requests[0]["authorization"] == "Bearer b"


def token(value: str) -> Reply:
    return said(json.dumps({"access_token": value, "expires_in": 300}).encode())


def oauth(server: HttpScript) -> dict[str, Any]:
    return {"oauth2": {"token_url": server.url, "client_id": "c", "client_secret": "s"}}


def test_a_token_is_got_and_carried(scripted: Script) -> None:
    authorization = scripted(token("t-1"), token("t-2"))
    this = asked(scripted(OK), service=oauth(authorization))
    this.infer()
    this.infer()
    assert [r["authorization"] for r in this.server.requests] == ["Bearer t-1"] * 2
    assert len(authorization.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_is_replaced_once(scripted: Script, status: int) -> None:
    authorization = scripted(token("t-1"), token("t-2"), token("t-3"))
    this = asked(scripted(said(b"", status), OK), service=oauth(authorization))
    assert isinstance(this.infer(), InferenceResult)
    assert [r["authorization"] for r in this.server.requests] == ["Bearer t-1", "Bearer t-2"]
    closed = asked(scripted(said(b"", status)), service=oauth(scripted(token("t"))))
    with pytest.raises(TransientError, match=r"adapters\.vendor_http\.services"):
        closed.infer()
    assert len(closed.server.requests) == 2


def test_who_is_refused_a_token_is_for_operators(scripted: Script) -> None:
    authorization = scripted((400, b'{"error": "invalid_client"}', {}))
    this = asked(scripted(OK), service=oauth(authorization))
    with pytest.raises(TransientError, match="invalid_client"):
        this.infer()
    assert this.server.requests == []


# --- where --------------------------------------------------------------------------------------


def configured(url: str = "https://vendor.example/ai", **more: Any) -> VendorHttpConfig:
    return VendorHttpConfig.model_validate({"services": [{"url": url, **more}]})


@pytest.mark.parametrize(
    "url",
    [
        "https://vendor.example/ai-other",
        "https://vendor.example/",
        "https://vendor.example.evil/ai",
        "https://vendor.example:8443/ai",
        "http://vendor.example/ai",
        "https://other.example/ai",
    ],
)
def test_a_url_that_the_operator_did_not_name_is_not_asked(url: str) -> None:
    adapter = VendorHttpAdapter(configured(), context(private=()))
    with pytest.raises(ConfigError, match=r"runtime\.url"):
        adapter.load(package(url))


@pytest.mark.parametrize(
    "url",
    [
        "https://vendor.example/ai",
        "https://vendor.example:443/ai/lung",
        "https://vendor.example/ai/",
    ],
)
def test_what_is_below_a_service_is_its(url: str) -> None:
    VendorHttpAdapter(configured(), context(private=())).load(package(url))


def test_a_service_of_one_vendor_is_not_asked_for_another() -> None:
    """He would be somebody to it: by our credentials, and by the secret of its webhooks."""
    url = "https://vendor.example/ai"
    vendor = package(url).card.vendor.name
    VendorHttpAdapter(configured(vendor=vendor), context(private=())).load(package(url))
    for other in ("Other", vendor.lower(), f"{vendor} "):
        config = configured(vendor=other, webhook_secrets=[SECRET])
        with pytest.raises(ConfigError, match=r"runtime\.url"):
            VendorHttpAdapter(config, context(private=())).load(package(url))
        body = b"{}"
        signed = signed_headers("m1", CLOCK.now(), body, [key_of(SECRET)])
        with pytest.raises(RejectedError):
            Callbacks(config, CLOCK)(package(url), signed, body)
    # the longest still counts: the rest of the host is not a way around
    urls = [{"url": "https://vendor.example"}, {"url": url, "vendor": "Other"}]
    config = VendorHttpConfig.model_validate({"services": urls})
    assert config.service_of(url, vendor) is None


def test_the_longest_service_counts() -> None:
    urls = ["https://vendor.example", "https://vendor.example/ai", "https://vendor.example/a"]
    config = VendorHttpConfig.model_validate({"services": [{"url": url} for url in urls]})
    found = config.service_of("https://vendor.example/ai/lung", "anybody")
    assert found is not None
    assert found.url == "https://vendor.example/ai"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/ai", "http://[::1]:1/ai", "https://10.0.0.1/ai"]
)
def test_private_addresses_are_for_the_operator_to_allow(url: str) -> None:
    config = configured(url, allow_http=True)
    with pytest.raises(ConfigError, match=r"outbound\.private_networks"):
        VendorHttpAdapter(config, context(private=())).load(package(url))
    with pytest.raises(ConfigError, match=r"outbound\.private_networks"):
        check(config, package(url), context(private=()))


def test_names_are_looked_at_when_they_are_connected_to(scripted: Script) -> None:
    server = scripted(OK)
    url = server.url.replace("127.0.0.1", "localhost")
    adapter = VendorHttpAdapter(configured(url), context(private=()))
    adapter.load(package(url))  # a name may lead anywhere
    with pytest.raises(RejectedError, match="not public"):
        adapter.infer(REQUEST)
    with pytest.raises(ConfigError, match="not public"):
        check(configured(url), package(url), context(private=()))
    assert server.requests == []


def test_before_activation_nothing_is_sent(scripted: Script) -> None:
    server = scripted(OK)
    assert ADAPTER.check is not None
    ADAPTER.check(configured(server.url), package(server.url), context())
    assert server.requests == []


def test_who_calls_back_needs_a_secret() -> None:
    adapter = VendorHttpAdapter(configured(), context(private=()))
    with pytest.raises(ConfigError, match="webhook_secrets"):
        adapter.load(package("https://vendor.example/ai", answer="webhook"))


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://vendor.example"},
        {"url": "https://vendor.example", "webhook_secrets": ["CANARY"]},
        {
            "url": "https://vendor.example",
            "bearer_token": "x",
            "oauth2": {"token_url": "https://a.example", "client_id": "c", "client_secret": "s"},
        },
        {"url": "https://vendor.example", "surprise": 1},
    ],
)
def test_services_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ServiceConfig.model_validate(options)
    assert "whsec" in str(caught.value) or "webhook_secrets" not in options


def test_a_secret_may_stand_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked up after the shape was checked."""
    text = (
        "adapters: {vendor_http: {services: "
        "[{url: 'https://vendor.example', webhook_secrets: [env:THEIR_SECRET]}]}}"
    )
    ours = package("https://vendor.example/ai", answer="webhook")
    for value, expected in ((SECRET, ""), ("CANARY", "must begin with whsec_")):
        monkeypatch.setenv("THEIR_SECRET", value)
        settings = load_settings(text, "caidx.yaml", discover())
        config = settings.adapters["vendor_http"]
        assert isinstance(config, VendorHttpConfig)
        adapter = VendorHttpAdapter(config, context(private=()))
        if not expected:
            adapter.load(ours)
            continue
        with pytest.raises(ConfigError, match=expected) as caught:
            adapter.load(ours)
        assert value not in str(caught.value)
        with pytest.raises(RejectedError, match="no signature is right"):
            Callbacks(config, CLOCK)(ours, {}, b"{}")


def test_no_secret_is_shown() -> None:
    config = ServiceConfig(url="https://v.example", webhook_secrets=(SecretStr(SECRET),))
    assert SECRET not in repr(config)


# --- callbacks ----------------------------------------------------------------------------------


def test_a_message_is_verified_by_the_secrets_of_its_service() -> None:
    config = configured(webhook_secrets=[SECRET])
    callbacks = Callbacks(config, CLOCK)
    ours = package("https://vendor.example/ai/lung", answer="webhook")
    headers = signed_headers("m-1", CLOCK.now(), b"{}", config.services[0].keys)
    assert callbacks(ours, headers, b"{}") == "https://vendor.example/ai m-1"
    with pytest.raises(RejectedError, match="no signature is right"):
        callbacks(ours, headers, b"{ }")
    for other in ("https://other.example/", "https://vendor.example/"):
        with pytest.raises(RejectedError):
            callbacks(package(other), headers, b"{}")
    with pytest.raises(RejectedError):
        Callbacks(configured(), CLOCK)(ours, headers, b"{}")


# --- what was promised --------------------------------------------------------------------------

NODULE, SOLID, MASS = (Code(str(n), "SCT", "x") for n in (1, 2, 3))


def test_a_result_of_what_was_not_declared_is_refused(scripted: Script) -> None:
    whole = assessed(REQUEST, with_region=False)
    with pytest.raises(RejectedError, match=r"findings\.1.*findings\.2"):
        asked(scripted(said(encode_answer(whole)))).infer()
    region = replace(assessed(REQUEST), findings=result().findings)
    with pytest.raises(RejectedError, match=r"label_map\.segments\.0"):
        asked(scripted(said(encode_answer(region)))).infer()


def _finding(**fields: Any) -> Finding:
    return Finding(
        **({"tracking_uid": "2.25.1", "tracking_identifier": "nodule", "code": NODULE} | fields)
    )


@pytest.mark.parametrize(
    ("finding", "declared"),
    [
        (_finding(presence=Presence.PRESENT), True),
        (_finding(presence=Presence.NOT_ASSESSABLE, code=replace(NODULE, code_meaning="y")), True),
        (_finding(presence=Presence.PRESENT, code=SOLID), False),
        (_finding(value=1.0, unit=Code("mm", "UCUM", "mm")), False),
        (_finding(coded_value=SOLID), False),
        (_finding(presence=Presence.PRESENT, tracking_identifier="nodule 1"), False),
        (_finding(presence=Presence.PRESENT, tracking_identifier="spot 12", code=MASS), True),
        (_finding(presence=Presence.PRESENT, tracking_identifier="spot", code=NODULE), True),
        (_finding(presence=Presence.PRESENT, tracking_identifier="spot 012", code=MASS), False),
        (_finding(presence=Presence.PRESENT, tracking_identifier="spot 1", code=SOLID), False),
        (_finding(coded_value=SOLID, tracking_identifier="kind"), True),
        (_finding(coded_value=MASS, tracking_identifier="kind"), False),
    ],
)
def test_findings_are_those_of_the_card(finding: Finding, declared: bool) -> None:
    spots = DetectionsFinding(
        kind="detections",
        output="o",
        scores="s",
        code=NODULE,
        class_codes=(MASS,),
        threshold=0.5,
        tracking_identifier="spot",
    )
    nodule = PresenceFinding(
        kind="presence", output="o", code=NODULE, threshold=0.5, tracking_identifier="nodule"
    )
    kinds = ClassFinding(
        kind="class", output="o", code=NODULE, classes=(SOLID,), tracking_identifier="kind"
    )
    output = replace(model_card().output, findings=(nodule, spots, kinds))
    answer = replace(result(), findings=(finding,))
    if declared:
        check_promise(answer, output)
    else:
        with pytest.raises(RejectedError, match=r"findings\.0"):
            check_promise(answer, output)


# --- manifests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runtime", "field"),
    [
        ({"url": "ftp://v.example"}, "url"),
        ({"url": "https://"}, "url"),
        ({"url": "https://u:p@v.example"}, "url"),
        ({"url": "https://v.example/?key=1"}, "url"),
        ({"url": "https://v.example/a/../b"}, "url"),
        ({"url": "https://v.example/a/%2E%2E/b"}, "url"),
        ({"url": "https://v.example//b"}, "url"),
        ({"url": "https://v.example:0/b"}, "url"),
        ({"url": "https://v.example:x/b"}, "url"),
        ({"url": "https://v.example/b c"}, "url"),
        ({"poll_seconds": 0.0}, "poll_seconds"),
        ({"answer_within_seconds": 0.0}, "answer_within_seconds"),
        ({"timeout_seconds": 0.0}, "timeout_seconds"),
    ],
)
def test_manifests_that_cannot_be(runtime: dict[str, Any], field: str) -> None:
    told = {"url": "https://v.example/ai"} | runtime
    assert ("runtime", field) in [path for path, _ in card_faults(card(**told))]


def test_a_whole_manifest_has_no_fault() -> None:
    assert list(card_faults(card("https://vendor.example/ai/lung-1_0"))) == []
