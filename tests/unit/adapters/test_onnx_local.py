from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hub.domain.finding import Presence
from hub.domain.identity import derived_uid
from hub.domain.inference import InferenceResult, Outcome, Unsuitable
from hub.errors import ConfigError, IntegrityError, RejectedError, TransientError
from hub.ports import AdapterContext, HealthState
from model_adapters.onnx_local import ADAPTER
from model_adapters.onnx_local.adapter import OnnxLocalAdapter
from model_adapters.onnx_local.config import OnnxLocalConfig
from tests.unit.adapters.toy_models import (
    MANIFEST,
    Files,
    WallClock,
    graph,
    nan_graph,
    request,
    slow_graph,
    write_package,
)
from tests.unit.imaging import ct_series, ct_slice


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def adapter(store: Files) -> Iterator[OnnxLocalAdapter]:
    made = ADAPTER.build(OnnxLocalConfig(processes=2), AdapterContext("t", store, WallClock()))
    yield made  # type: ignore[misc]
    made.close()


def infer(adapter: OnnxLocalAdapter, *arguments: Any, **named: Any) -> InferenceResult:
    result = adapter.infer(request(*arguments, **named))
    assert isinstance(result, InferenceResult), result
    return result


def pids(adapter: OnnxLocalAdapter) -> list[int]:
    found: list[int] = []
    adapter._pool.each_idle(lambda worker: found.append(worker.pid))
    return found


def bright(number: int) -> bytes:
    """HU 1 in one corner of the slice that depends on its number, -1 elsewhere."""
    pixels = np.full((4, 6), 1023, np.int16)
    pixels[0, number] = 1025
    return ct_slice(number, pixels)


def test_a_volume_becomes_findings_and_labels_on_its_own_images(
    adapter: OnnxLocalAdapter, store: Files, tmp_path: Path
) -> None:
    package = write_package(tmp_path, graph())
    adapter.load(package)
    result = infer(adapter, store, [bright(2), bright(0), bright(1)], package.key)
    assert result.outcome is Outcome.ASSESSED
    (finding,) = result.findings
    assert finding.value == 3 * (1 - 23)
    assert finding.statement == "The sum is -66."
    assert finding.tracking_uid == derived_uid("1.2.826.0.2", "toy", "the sum")
    assert finding.segment_numbers == (1,)
    assert len(finding.evidence) == 3
    region = result.region
    assert region is not None
    assert region.sop_instance_uids == tuple(f"1.2.826.0.1.{n}" for n in (1, 2, 3))
    expected = np.zeros((3, 4, 6), np.uint8)
    for number in range(3):
        expected[number, 0, number] = 1
    assert np.array_equal(np.frombuffer(region.labels, np.uint8).reshape(3, 4, 6), expected)
    assert region.segments[0].tracking_uid == derived_uid("1.2.826.0.2", "toy", "bright voxels")
    parts = [timing.part for timing in result.timings]
    assert parts == ["read", "decode", "preprocess", "inference", "postprocess"]
    assert result.identity.study_instance_uid == "1.2.826.0.2"


def test_not_assessable_is_an_answer_without_numbers(
    adapter: OnnxLocalAdapter, store: Files, tmp_path: Path
) -> None:
    package = write_package(tmp_path, graph())
    adapter.load(package)
    air = [ct_slice(n, np.full((80, 90), -20, np.int16)) for n in range(3)]
    result = infer(adapter, store, air, package.key)
    assert result.outcome is Outcome.NOT_ASSESSABLE
    assert result.reasons == ("nothing but air",)
    assert [f.presence for f in result.findings] == [Presence.NOT_ASSESSABLE]
    assert result.findings[0].value is None
    assert result.region is None


def test_an_unsuitable_series_is_an_answer(
    adapter: OnnxLocalAdapter, store: Files, tmp_path: Path
) -> None:
    package = write_package(tmp_path, graph())
    adapter.load(package)
    answer = adapter.infer(request(store, ct_series([0, 1, 3]), package.key))
    assert isinstance(answer, Unsuitable)
    assert "not equally spaced" in answer.reasons[0]


def test_nan_from_a_model_is_a_broken_result(
    adapter: OnnxLocalAdapter, store: Files, tmp_path: Path
) -> None:
    package = write_package(tmp_path, nan_graph())
    adapter.load(package)
    with pytest.raises(RejectedError, match="not finite"):
        infer(adapter, store, ct_series(range(2)), package.key)


def test_a_value_outside_its_valid_range_is_a_broken_result(
    adapter: OnnxLocalAdapter, store: Files, tmp_path: Path
) -> None:
    narrow = MANIFEST.replace("[-1000000, 1000000]", "[0, 10]")
    package = write_package(tmp_path, graph(), manifest=narrow)
    adapter.load(package)
    with pytest.raises(RejectedError, match="cannot be: -66"):
        infer(adapter, store, [bright(n) for n in range(3)], package.key)


def test_broken_input_costs_no_worker(
    adapter: OnnxLocalAdapter, store: Files, tmp_path: Path
) -> None:
    package = write_package(tmp_path, graph())
    adapter.load(package)
    asked = request(store, ct_series(range(2)), package.key, request_id="broken")
    before = pids(adapter)
    (store.root / "broken-1.dcm").write_bytes(b"no DICOM")
    with pytest.raises(RejectedError, match="not a DICOM"):
        adapter.infer(asked)
    (store.root / "broken-1.dcm").write_bytes(ct_slice(7))
    with pytest.raises(IntegrityError, match="other instances"):
        adapter.infer(asked)
    assert pids(adapter) == before


def test_a_model_that_takes_too_long_is_stopped_and_the_others_go_on(
    adapter: OnnxLocalAdapter, store: Files, tmp_path: Path
) -> None:
    quick = write_package(tmp_path / "quick", graph())
    slow = write_package(
        tmp_path / "slow", slow_graph(), timeout=6, manifest=MANIFEST.replace("id: toy", "id: slow")
    )
    adapter.load(quick)
    adapter.load(slow)
    with adapter._pool.worker() as one, adapter._pool.worker() as other:
        one.load(quick)  # both have started
        other.load(quick)
    failed: list[BaseException] = []

    def ask_slowly() -> None:
        try:
            infer(adapter, store, ct_series(range(2)), slow.key, request_id="slow")
        except TransientError as error:
            failed.append(error)

    thread = threading.Thread(target=ask_slowly)
    thread.start()
    meanwhile = 0
    while thread.is_alive():
        infer(adapter, store, [bright(0), bright(1)], quick.key, request_id="quick")
        meanwhile += thread.is_alive()
    assert meanwhile
    assert "took more than 6 s" in str(failed[0])
    assert infer(adapter, store, [bright(0), bright(1)], quick.key).findings[0].value == -44


def test_a_worker_killed_at_work_costs_one_request_and_is_replaced(
    adapter: OnnxLocalAdapter, store: Files, tmp_path: Path
) -> None:
    quick = write_package(tmp_path / "quick", graph())
    endless = write_package(
        tmp_path / "slow", slow_graph(), manifest=MANIFEST.replace("id: toy", "id: endless")
    )
    adapter.load(quick)
    adapter.load(endless)
    asked = request(store, ct_series(range(2)), endless.key, request_id="endless")
    killer = threading.Thread(target=kill_the_busy_worker, args=(adapter,))
    killer.start()
    with pytest.raises(TransientError, match="signal 9"):
        adapter.infer(asked)
    killer.join()
    assert adapter.health().state is HealthState.DEGRADED
    for _ in range(4):
        assert infer(adapter, store, [bright(0), bright(1)], quick.key).findings[0].value == -44
    assert adapter.health().state is HealthState.HEALTHY


def kill_the_busy_worker(adapter: OnnxLocalAdapter) -> None:
    time.sleep(0.5)
    workers = {child.pid for child in active_children() if child.name == "caidx-onnx"}
    (busy,) = workers - set(pids(adapter))
    os.kill(busy or 0, signal.SIGKILL)


def test_a_worker_killed_at_rest_costs_no_request(
    adapter: OnnxLocalAdapter, store: Files, tmp_path: Path
) -> None:
    package = write_package(tmp_path, graph())
    adapter.load(package)
    for pid in pids(adapter):
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert infer(adapter, store, [bright(0), bright(1)], package.key).findings[0].value == -44


def test_more_threads_than_workers_all_get_their_own_answer(
    adapter: OnnxLocalAdapter, store: Files, tmp_path: Path
) -> None:
    package = write_package(tmp_path, graph())
    adapter.load(package)
    answers: dict[int, Any] = {}

    def ask(size: int) -> None:
        files = [bright(n) for n in range(size)]
        answers[size] = infer(adapter, store, files, package.key, request_id=f"many{size}")

    threads = [threading.Thread(target=ask, args=(size,)) for size in (2, 3, 4, 5, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {s: a.findings[0].value for s, a in answers.items()} == {s: -22 * s for s in answers}
    assert {s: len(a.region.labels) for s, a in answers.items()} == {s: 24 * s for s in answers}


def test_an_unloaded_model_is_gone(adapter: OnnxLocalAdapter, store: Files, tmp_path: Path) -> None:
    package = write_package(
        tmp_path, graph(), manifest=MANIFEST.replace("version: 1.0.0", "version: 2.0.0")
    )
    adapter.load(package)
    infer(adapter, store, ct_series(range(2)), package.key)
    adapter.unload(package.key)
    held: list[frozenset[object]] = []
    adapter._pool.each_idle(lambda worker: held.append(frozenset(worker._models)))
    assert held
    assert all(package.key not in models for models in held)
    with pytest.raises(TransientError, match=r"toy\|2.0.0 is not loaded"):
        infer(adapter, store, ct_series(range(2)), package.key)


# --- what is no model --------------------------------------------------------------------


def refusal(adapter: OnnxLocalAdapter, package: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        adapter.load(package)
    return str(caught.value)


def test_a_graph_that_changed_since_registration_is_refused(
    adapter: OnnxLocalAdapter, tmp_path: Path
) -> None:
    package = write_package(tmp_path, graph())
    (tmp_path / "toy.onnx").write_bytes(nan_graph())
    package = type(package)(
        type(package.key)("toy", "3", "0"), package.card, package.directory, package.artefacts
    )
    assert "not the file that sha256 pins" in refusal(adapter, package)


def test_what_is_not_onnx_is_refused(adapter: OnnxLocalAdapter, tmp_path: Path) -> None:
    package = write_package(tmp_path, b"\x80\x04\x95pickle")
    assert "not an ONNX file" in refusal(adapter, package)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: x,", "name: y,", "the model has no input y; its inputs are x"),
        ("axes: 1 slice row column}]", "axes: slice row column}]", "takes 4 axes, axes names 3"),
        ("column}]", "column, dtype: int16}]", r"takes float32, not int16"),
        ("output: total\n", "output: sum\n", "no output sum; known are labels, total"),
        ("    output: labels", "    output: total", "holds whole numbers, not float32"),
    ],
)
def test_a_graph_that_is_not_what_its_manifest_says_is_refused(
    adapter: OnnxLocalAdapter, tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in MANIFEST
    package = write_package(tmp_path, graph(), manifest=MANIFEST.replace(old, new, 1))
    assert said in refusal(adapter, package)


@pytest.mark.parametrize("location", ["../secret.bin", "secret.bin"])
def test_tensors_outside_the_listed_files_are_never_opened(
    adapter: OnnxLocalAdapter, tmp_path: Path, location: str
) -> None:
    model = onnx.load_from_string(graph())
    (tensor,) = model.graph.initializer
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "secret.bin").write_bytes(bytes(4))
    package = write_package(tmp_path / "package", bytes(model.SerializeToString()))
    assert f"keeps tensors in {location}" in refusal(adapter, package)


def test_listed_external_tensors_are_read_from_their_verified_bytes(
    adapter: OnnxLocalAdapter, store: Files, tmp_path: Path
) -> None:
    model = onnx.load_from_string(graph())
    (tensor,) = model.graph.initializer
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    tensor.external_data.add(key="length", value="4")
    zero = "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119"
    listed = f"  external_data: [{{path: weights.bin, sha256: {zero}}}]\n  inputs:"
    (tmp_path / "weights.bin").write_bytes(bytes(4))
    package = write_package(
        tmp_path,
        bytes(model.SerializeToString()),
        manifest=MANIFEST.replace("  inputs:", listed),
    )
    adapter.load(package)
    assert infer(adapter, store, [bright(0), bright(1)], package.key).findings[0].value == -44
