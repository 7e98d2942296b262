"""What the hub expects of every way to run models (hub.ports.ModelAdapter)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from hub.bootstrap.vendor_door import RetrievalTokens, SignedDoor
from hub.domain.identity import PatientIdentity
from hub.domain.inference import (
    InferenceRequest,
    InferenceResult,
    ModelKey,
    Outcome,
    Unsuitable,
)
from hub.domain.model_runtime import OpenInferenceRuntime, Runtime, VendorHttpRuntime
from hub.errors import CaidxError, ConfigError, RejectedError, TransientError
from hub.formats.contract.request import DicomInputMessage, RequestMessage
from hub.ports import AdapterContext, HealthState, ModelAdapter, ModelPackage
from model_adapters.onnx_local import ADAPTER as ONNX_LOCAL
from model_adapters.onnx_local.config import OnnxLocalConfig
from model_adapters.open_inference import ADAPTER as OPEN_INFERENCE
from model_adapters.open_inference.config import OpenInferenceConfig, ServerConfig
from model_adapters.vendor_http import ADAPTER as VENDOR_HTTP
from model_adapters.vendor_http.config import VendorHttpConfig
from tests.peers.inference_script import inference_script
from tests.peers.vendor_script import measured, vendor_script
from tests.unit.adapters.toy_models import (
    MANIFEST,
    Files,
    WallClock,
    graph,
    nan_graph,
    request,
    write_package,
)
from tests.unit.imaging import ct_series, ct_slice

CANARY = "CANARY-PATIENT"


@dataclass
class Harness:
    """An adapter, models for it, and ways to disturb it.

    The model ``version`` answers with one measurement: -22 for each slice of `bright`.
    """

    name: str
    """As in its entry point; what ``ran_on`` begins with."""
    adapter: ModelAdapter
    package: Callable[[str], ModelPackage]
    """The model in a version; not loaded yet. None of the same key is another one."""
    broken: ModelPackage
    """It loads, and its answer is no answer."""
    contradicting: ModelPackage
    """It is not what its manifest says."""
    store: Files
    disturb: Callable[[], None]
    """Until `mend`, or for one request, nobody answers."""
    mend: Callable[[], None] = field(default=lambda: None)
    refuses_images: bool = True
    """Looks at the images itself, and not whoever is asked."""


def _bright(number: int) -> bytes:
    """HU 1 in one voxel of 24, -1 elsewhere."""
    pixels = np.full((4, 6), 1023, np.int16)
    pixels[0, number] = 1025
    return ct_slice(number, pixels)


def asked(harness: Harness, key: ModelKey, name: str = "r", slices: int = 2) -> InferenceRequest:
    """A request about so many slices of a patient who must not show."""
    found = request(harness.store, [_bright(n) for n in range(slices)], key, request_id=name)
    patient = PatientIdentity(CANARY, patient_name=CANARY)
    return replace(found, study=replace(found.study, patient=patient))


def answer(harness: Harness, one: InferenceRequest) -> InferenceResult:
    result = harness.adapter.infer(one)
    assert isinstance(result, InferenceResult), result
    return result


# --- one for each adapter ----------------------------------------------------------------


@contextmanager
def onnx_local(folder: Path) -> Iterator[Harness]:
    store = _store(folder)
    context = AdapterContext("onnx_local", store, WallClock())
    adapter = ONNX_LOCAL.build(OnnxLocalConfig(processes=1), context)
    yield Harness(
        "onnx_local",
        adapter,
        lambda version: _toy(folder, version),
        broken=_toy(folder, "nan", nan_graph()),
        contradicting=_toy(folder, "wrong", manifest=MANIFEST.replace("name: x,", "name: y,")),
        store=store,
        disturb=_stop_the_workers,
    )
    adapter.close()


@contextmanager
def open_inference(folder: Path) -> Iterator[Harness]:
    store = _store(folder)
    toy, nan = _toy(folder, "1"), _toy(folder, "nan", nan_graph())
    with (
        inference_script(toy.artefacts["toy.onnx"], "toy") as served,
        inference_script(nan.artefacts["toy.onnx"], "toy") as served_nan,
    ):
        servers = tuple(ServerConfig(url=script.url) for script in (served, served_nan))
        config = OpenInferenceConfig(processes=1, servers=servers)
        adapter = OPEN_INFERENCE.build(config, AdapterContext("open_inference", store, WallClock()))
        yield Harness(
            "open_inference",
            adapter,
            lambda version: _on_server(_toy(folder, version), served.url),
            broken=_on_server(nan, served_nan.url),
            contradicting=_on_server(_toy(folder, "wrong"), served.url, model_name="other"),
            store=store,
            disturb=lambda: served.status.update({"/infer": (503, {})}),
            mend=served.status.clear,
        )
        adapter.close()


@contextmanager
def vendor_http(folder: Path) -> Iterator[Harness]:
    def work(message: RequestMessage) -> bytes:
        (given,) = message.inputs
        assert isinstance(given, DicomInputMessage)
        return measured(message, -22 * len(given.series[0].instances))

    store = _store(folder)
    with vendor_script(work) as served, vendor_script(lambda _: b"{}") as broken:
        services = [{"url": script.url} for script in (served, broken)]
        config = VendorHttpConfig.model_validate({"services": services})
        door = SignedDoor("https://hub.example", RetrievalTokens(folder))
        context = AdapterContext("vendor_http", store, WallClock(), door, ("127.0.0.1",))
        adapter = VENDOR_HTTP.build(config, context)

        def disturb() -> None:
            served.status = 503

        def mend() -> None:
            served.status = 200

        yield Harness(
            "vendor_http",
            adapter,
            lambda version: _at_vendor(_toy(folder, version), served.url),
            broken=_at_vendor(_toy(folder, "broken"), broken.url),
            contradicting=_at_vendor(_toy(folder, "wrong"), "https://nobody.example"),
            store=store,
            disturb=disturb,
            mend=mend,
            refuses_images=False,
        )
        adapter.close()


ADAPTERS: dict[str, Callable[[Path], AbstractContextManager[Harness]]] = {
    "onnx_local": onnx_local,
    "open_inference": open_inference,
    "vendor_http": vendor_http,
}


def _store(folder: Path) -> Files:
    (folder / "objects").mkdir()
    return Files(folder / "objects")


def _toy(
    folder: Path, version: str, model: bytes | None = None, *, manifest: str = MANIFEST
) -> ModelPackage:
    text = manifest.replace("version: 1.0.0", f"version: '{version}'")
    return write_package(folder / version, model or graph(), timeout=60, manifest=text)


def _on_server(package: ModelPackage, url: str, model_name: str = "toy") -> ModelPackage:
    runtime = OpenInferenceRuntime(
        kind="open_inference",
        url=url,
        model_name=model_name,
        inputs=package.card.runtime.inputs,  # type: ignore[union-attr]
    )
    return replace(package, card=replace(package.card, runtime=runtime), artefacts={})


def _at_vendor(package: ModelPackage, url: str) -> ModelPackage:
    runtime = VendorHttpRuntime(kind="vendor_http", url=url)
    return replace(package, card=replace(package.card, runtime=runtime), artefacts={})


def _stop_the_workers() -> None:
    """They stand still, and are killed while the next request waits for them."""
    for child in active_children():
        if child.name == "caidx-onnx" and child.pid is not None:
            os.kill(child.pid, signal.SIGSTOP)
            threading.Timer(0.5, child.kill).start()


@pytest.fixture(params=ADAPTERS, scope="module")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harness]:
    with ADAPTERS[request.param](tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture
def harness(shared: Harness) -> Iterator[Harness]:
    yield shared
    shared.mend()


# --- the contract ------------------------------------------------------------------------


def test_a_loaded_model_answers_what_it_was_asked(harness: Harness) -> None:
    package = harness.package("1")
    harness.adapter.load(package)
    one = asked(harness, package.key, slices=3)
    result = answer(harness, one)
    assert (result.request_id, result.model) == (one.request_id, package.key)
    assert result.identity.study_instance_uid == one.study.identity.study_instance_uid
    assert result.outcome is Outcome.ASSESSED
    assert [finding.value for finding in result.findings] == [-66]
    assert result.ran_on.split()[0] == harness.name
    assert CANARY not in result.ran_on


def test_a_model_that_is_not_loaded_is_asked_again_later(harness: Harness) -> None:
    nobody = ModelKey("nobody", "1", "0" * 64)
    with pytest.raises(TransientError):
        harness.adapter.infer(asked(harness, nobody))


def test_a_new_version_is_loaded_before_the_old_one_goes(harness: Harness) -> None:
    old, new = harness.package("1"), harness.package("2")
    harness.adapter.load(old)
    harness.adapter.load(new)
    results = [answer(harness, asked(harness, key.key)) for key in (old, new)]
    assert [result.model for result in results] == [old.key, new.key]
    harness.adapter.unload(old.key)
    with pytest.raises(TransientError):
        harness.adapter.infer(asked(harness, old.key))
    assert answer(harness, asked(harness, new.key)).findings[0].value == -44


def test_unloading_what_is_not_there_is_no_error(harness: Harness) -> None:
    package = harness.package("1")
    harness.adapter.load(package)
    harness.adapter.unload(ModelKey("nobody", "1", "0" * 64))
    harness.adapter.unload(package.key)
    harness.adapter.unload(package.key)
    harness.adapter.load(package)
    assert answer(harness, asked(harness, package.key)).findings[0].value == -44


def test_loading_again_changes_nothing(harness: Harness) -> None:
    package = harness.package("1")
    for _ in range(2):
        harness.adapter.load(package)
    assert answer(harness, asked(harness, package.key)).findings[0].value == -44


def test_a_model_that_contradicts_its_manifest_is_refused_and_the_others_go_on(
    harness: Harness,
) -> None:
    package = harness.package("1")
    harness.adapter.load(package)
    with pytest.raises(ConfigError) as caught:
        harness.adapter.load(harness.contradicting)
    assert all(problem.field and problem.message for problem in caught.value.problems)
    with pytest.raises(TransientError):
        harness.adapter.infer(asked(harness, harness.contradicting.key))
    assert answer(harness, asked(harness, package.key)).findings[0].value == -44


def test_a_runtime_of_another_kind_is_refused(harness: Harness) -> None:
    package, url = harness.package("1"), "https://vendor.example"
    other: Runtime = VendorHttpRuntime(kind="vendor_http", url=url)
    if package.card.runtime.kind == other.kind:
        other = OpenInferenceRuntime(kind="open_inference", url=url, model_name="m", inputs=())
    wrong = replace(package, card=replace(package.card, runtime=other))
    wrong = replace(wrong, key=replace(package.key, version="other"))
    with pytest.raises(ConfigError, match=r"runtime\.kind"):
        harness.adapter.load(wrong)


def test_input_outside_the_intended_use_is_an_answer(harness: Harness) -> None:
    if not harness.refuses_images:
        return
    package = harness.package("1")
    harness.adapter.load(package)
    uneven = request(harness.store, ct_series([0, 1, 3]), package.key, request_id="uneven")
    found = harness.adapter.infer(uneven)
    assert isinstance(found, Unsuitable)
    assert found.request_id == "uneven"
    assert found.reasons
    assert found.ran_on == harness.name  # no server was asked, and somebody looked


def test_an_answer_that_is_none_is_never_a_result(harness: Harness) -> None:
    harness.adapter.load(harness.broken)
    with pytest.raises(RejectedError) as caught:
        harness.adapter.infer(asked(harness, harness.broken.key))
    assert CANARY not in str(caught.value)


def test_a_passing_fault_costs_one_request_and_no_more(harness: Harness) -> None:
    package = harness.package("1")
    harness.adapter.load(package)
    answer(harness, asked(harness, package.key))
    harness.disturb()
    with pytest.raises(TransientError) as caught:
        harness.adapter.infer(asked(harness, package.key))
    assert CANARY not in str(caught.value)
    harness.mend()
    assert answer(harness, asked(harness, package.key)).findings[0].value == -44
    assert harness.adapter.health().state is HealthState.HEALTHY


def test_each_of_many_at_once_gets_its_own_answer(harness: Harness) -> None:
    package = harness.package("1")
    harness.adapter.load(package)
    many = {n: asked(harness, package.key, f"many{n}", slices=n) for n in (2, 3, 4, 5, 6)}
    with ThreadPoolExecutor(len(many)) as threads:
        found = dict(zip(many, threads.map(lambda n: answer(harness, many[n]), many), strict=True))
    assert {n: result.request_id for n, result in found.items()} == {n: f"many{n}" for n in many}
    assert {n: result.findings[0].value for n, result in found.items()} == {
        n: -22 * n for n in many
    }


def test_health_says_since_when(harness: Harness) -> None:
    harness.adapter.load(harness.package("1"))
    health = harness.adapter.health()
    assert health.state is HealthState.HEALTHY
    assert health.detail
    assert health.since.utcoffset() is not None
    assert harness.adapter.health().since == health.since


@pytest.mark.parametrize("name", ADAPTERS)
def test_after_the_end_nothing_answers_and_nothing_is_left(name: str, tmp_path: Path) -> None:
    before = {child.pid for child in active_children()}
    with ADAPTERS[name](tmp_path) as fresh:
        package = fresh.package("1")
        fresh.adapter.load(package)
        answer(fresh, asked(fresh, package.key))
        fresh.adapter.close()
        fresh.adapter.close()
        assert {child.pid for child in active_children()} <= before
        with pytest.raises(CaidxError):
            fresh.adapter.infer(asked(fresh, package.key))
        assert fresh.adapter.health().state is HealthState.STOPPED
