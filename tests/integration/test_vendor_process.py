"""The simulated vendor as a process of its own: it computes, speaks HTTPS, and ends."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from hub.bootstrap.clock import SystemClock
from hub.domain.coding import Code
from hub.domain.inference import (
    Deferred,
    ImagingInput,
    InferenceRequest,
    InferenceResult,
    InputRole,
    ObservationInput,
    Unsuitable,
)
from hub.domain.observation import Observation
from hub.domain.study import Completeness, EvidenceKind, Series
from hub.errors import RejectedError
from hub.formats.contract.messages import decode_answer, encode_request
from hub.formats.dicom.header import scan_header
from hub.formats.dicom.part10 import split_part10
from hub.formats.encoding import check_document_identity
from hub.formats.images.ct_phantom import chest_phantom
from hub.ports import AdapterContext, ReceivedObject, Retrieval, Sender
from hub.registry import discover
from hub.simulator.images import FolderStore
from hub.store.packages import read_package
from tests.builders import PATIENT, RECEIVED_AT, chest_ct_study, request_for
from tests.dicomweb_server import dicomweb_server, serving
from tests.peers.certificates import Authority
from tests.peers.vendor import simulated_vendor

PATIENCE = 20.0


def asking(request: InferenceRequest) -> dict[str, Any]:
    """A request as the hub posts it."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": request.request_id}
    return {"content": encode_request(request), "headers": headers}


def read(
    response: httpx.Response, request: InferenceRequest
) -> InferenceResult | Unsuitable | Deferred:
    return decode_answer(response.content, request, received_at=datetime.now(UTC))


@pytest.fixture
def request_() -> InferenceRequest:
    return request_for(chest_ct_study(2))


AUTHORIZATION = "Bearer of-this-request-only"


@contextmanager
def _archive(files: list[bytes]) -> Iterator[Retrieval]:
    """The images of a request by WADO-RS, for who shows the credential."""
    with dicomweb_server() as source:
        reception = source.intake.open(Sender("test"))
        for file in files:
            syntax, data_set = split_part10(file)
            scan = scan_header(data_set, syntax)
            received = ReceivedObject(scan.sop_class_uid, scan.sop_instance_uid, syntax, data_set)
            reception.store(received)

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            if dict(scope["headers"]).get(b"authorization") != AUTHORIZATION.encode():
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
            await source.application(scope, receive, send)

        with serving(guarded) as port:
            url = f"http://127.0.0.1:{port}/dicom-web"
            yield Retrieval(url, AUTHORIZATION, datetime.now(UTC) + timedelta(minutes=5))


def _request(files: list[bytes], folder: Path) -> InferenceRequest:
    """About a series whose objects lie in a folder."""
    store = FolderStore(folder)
    instances = tuple(store.keep("local", file) for file in files)
    series = (Series(instances[0].series_instance_uid, "CT", instances),)
    study = replace(
        chest_ct_study(1, study_instance_uid=instances[0].study_instance_uid),
        series=series,
        study_date=instances[0].attributes["study_date"],
        patient=instances[0].patient,
    )
    return replace(request_for(study), inputs=(ImagingInput(InputRole.CURRENT, series),))


def _locally(request: InferenceRequest, folder: Path, model: str) -> InferenceResult:
    components = discover()
    kind = components.adapters["onnx_local"]
    context = AdapterContext(name="onnx_local", objects=FolderStore(folder), clock=SystemClock())
    adapter = kind.build(kind.config(processes=1), context)
    try:
        package = read_package(components.models[model])
        adapter.load(package)
        result = adapter.infer(replace(request, model=package.key))
    finally:
        adapter.close()
    assert isinstance(result, InferenceResult)
    return result


def test_a_model_at_the_vendor_finds_what_it_finds_locally(tmp_path: Path) -> None:
    """To the last digit, voxel and identifier: retrieved by WADO-RS, told as JSON."""
    phantom = chest_phantom(slices=48, rows=128, columns=128, slice_spacing_mm=5.0)
    request = _request(phantom.files, tmp_path)
    local = _locally(request, tmp_path, "lung-density")
    with (
        _archive(phantom.files) as retrieval,
        simulated_vendor(tmp_path, "ok", "--model", "builtin:lung-density") as vendor,
    ):
        content = encode_request(request, retrieve=retrieval)
        headers = asking(request)["headers"]
        response = httpx.post(vendor.url, content=content, headers=headers, timeout=120)
        result = read(response, request)
        forbidden = replace(retrieval, authorization="Bearer stolen")
        other = replace(request, request_id="stolen")
        refused = httpx.post(
            vendor.url,
            content=encode_request(other, retrieve=forbidden),
            headers=headers | {"Idempotency-Key": "stolen"},
            timeout=120,
        )
        assert vendor.statistics()["computed"] == {request.request_id: 1, "stolen": 1}
        assert str(vendor.received()).find("of-this-request-only") > 0
    assert isinstance(result, InferenceResult)
    assert local.findings
    assert result.findings == local.findings
    assert result.region == local.region
    assert result.outcome is local.outcome
    assert result.model == request.model
    check_document_identity(request, result)
    with pytest.raises(RejectedError, match="images-not-readable"):
        read(refused, other)
    log = vendor.log.read_text()
    assert request.request_id in log
    for secret in (*request.study.patient.patient_name.split("^"), "of-this-request-only"):
        assert not secret or secret not in log


def _value(loinc: str, value: float, unit: str) -> Observation:
    return Observation(
        observation_id=sha256(loinc.encode()).hexdigest()[:32],
        patient=PATIENT,
        codes=(Code(loinc, "LN", "measured"),),
        status="final",
        effective_at=RECEIVED_AT - timedelta(days=3),
        value=value,
        unit=Code(unit, "UCUM", unit),
        reference="Observation/1",
    )


VALUES = (
    _value("1920-8", 62.0, "U/L"),
    _value("1742-6", 41.0, "U/L"),
    _value("777-3", 143.0, "10*3/uL"),
    _value("14682-9", 88.4, "umol/L"),
)


def _case(values: tuple[Observation, ...]) -> InferenceRequest:
    study = replace(
        chest_ct_study(1),
        series=(),
        observations=values,
        completeness=Completeness(
            complete=True, evidence=EvidenceKind.ORDERED_VALUES, received=0, expected=None
        ),
    )
    return replace(request_for(study), inputs=(ObservationInput(InputRole.CURRENT, values),))


def test_values_at_the_vendor_give_what_they_give_locally(tmp_path: Path) -> None:
    """Age, sex, units and dates arrive; what is missing is told by name."""
    request, lacking = _case(VALUES), replace(_case(VALUES[:3]), request_id="lacking")
    local = _locally(request, tmp_path, "liver-kidney-scores")
    with simulated_vendor(tmp_path, "ok", "--model", "builtin:liver-kidney-scores") as vendor:
        result = read(httpx.post(vendor.url, timeout=60, **asking(request)), request)
        unsuitable = read(httpx.post(vendor.url, timeout=60, **asking(lacking)), lacking)
    assert isinstance(result, InferenceResult)
    assert local.findings
    assert result.findings == local.findings
    assert isinstance(unsuitable, Unsuitable)
    assert any("creatinine" in reason for reason in unsuitable.reasons)


def test_it_says_where_it_listens_and_ends_when_it_is_told(
    tmp_path: Path, request_: InferenceRequest
) -> None:
    with simulated_vendor(tmp_path, "hang") as vendor:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(vendor.url, timeout=0.5, **asking(request_))
        vendor.process.terminate()
        assert vendor.process.wait(PATIENCE) == 0


def test_it_speaks_https_to_clients_with_a_certificate(
    tmp_path: Path, request_: InferenceRequest
) -> None:
    authority = Authority(tmp_path / "pki")
    own, hub = authority.issue("vendor"), authority.issue("hub")
    trusted = ssl.create_default_context(cafile=str(authority.certificate))
    known = ssl.create_default_context(cafile=str(authority.certificate))
    known.load_cert_chain(hub.certificate, hub.private_key)
    options = ["--certificate", str(own.certificate), "--private-key", str(own.private_key)]
    options += ["--client-authorities", str(authority.certificate)]
    with simulated_vendor(tmp_path, "ok", *options, tls=known) as vendor:
        assert vendor.url.startswith("https://")
        with httpx.Client(verify=trusted) as stranger, pytest.raises(httpx.TransportError):
            stranger.post(vendor.url, **asking(request_))
        with httpx.Client(verify=known) as client:
            assert client.post(vendor.url, **asking(request_)).status_code == 200
        assert vendor.statistics()["computed"] == {request_.request_id: 1}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--secret", "hush"], "must begin with whsec_"),
        (["--answer", "soon"], "must be sync, poll or webhook"),
        (["--model", "builtin:none-such"], "no installed package ships"),
        (["--behaviour", "nice"], "nice"),
    ],
)
def test_what_is_asked_of_it_is_checked_before_it_starts(
    tmp_path: Path, options: list[str], told: str
) -> None:
    command = [sys.executable, "-m", "hub", "simulate", "vendor", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in (1, 2)
    assert told in " ".join(done.stderr.split())
    assert "hush" not in done.stderr
