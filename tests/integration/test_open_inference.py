"""The same model in a worker process of the hub and on a real inference server (MLServer)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hub.domain.inference import InferenceRequest, InferenceResult, ModelKey, Outcome
from hub.domain.model_runtime import OnnxRuntime, OpenInferenceRuntime
from hub.errors import ConfigError, RejectedError, TransientError
from hub.ports import AdapterContext, HealthState, ModelAdapter, ModelPackage
from hub.store.packages import read_package
from model_adapters.onnx_local import ADAPTER as ONNX_LOCAL
from model_adapters.onnx_local.config import OnnxLocalConfig
from model_adapters.open_inference import ADAPTER as OPEN_INFERENCE
from model_adapters.open_inference.config import OpenInferenceConfig
from model_adapters.reference_models import LUNG_DENSITY
from tests.acceptance.disc_model import findings_of_a_disc, with_disc
from tests.acceptance.studies import phantom
from tests.peers.mlserver import MlServer, ServedFile, mlserver
from tests.unit.adapters.toy_models import Files, WallClock, request
from tests.unit.observed import case, package_of_scores, request_of, usual_values

pytestmark = pytest.mark.peers


@dataclass(frozen=True)
class Site:
    """A hospital's server, and the hub beside it."""

    folder: Path
    packages: dict[str, ModelPackage]
    store: Files
    server: MlServer
    local: ModelAdapter

    def here(self, name: str, files: list[bytes]) -> InferenceResult:
        """What the model says in a worker process."""
        return ask(self.local, self.store, files, self.packages[name])

    def served(self, name: str, served_as: str = "", **changes: Any) -> ModelPackage:
        """The same model, whose manifest says that the server runs it."""
        return on_server(self.packages[name], self.server, served_as or name, **changes)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    disc, lung = read_package(findings_of_a_disc(folder / "model")), read_package(LUNG_DENSITY)
    scores = package_of_scores()
    for name in ("objects", "server"):
        (folder / name).mkdir()
    store = Files(folder / "objects")
    context = AdapterContext("onnx_local", store, WallClock())
    local = ONNX_LOCAL.build(OnnxLocalConfig(processes=1), context)
    models = (
        ServedFile("disc", graph_of(disc)),
        ServedFile("lung", graph_of(lung), version="3.1"),
        ServedFile("scores", graph_of(scores)),
    )
    try:
        with mlserver(folder / "server", *models) as server:
            packages = {"disc": disc, "lung": lung, "scores": scores}
            yield Site(folder, packages, store, server, local)
    finally:
        local.close()


@pytest.fixture
def remote(site: Site) -> Iterator[ModelAdapter]:
    made = adapter_for(site.server, site.store)
    yield made
    made.close()


@pytest.fixture(scope="module")
def disc_files(site: Site) -> list[bytes]:
    plain = phantom(site.folder / "plain")
    study = with_disc(plain, site.folder / "disc", slices=(4, 5, 6), row=62, column=37, radius=6)
    return [file.read_bytes() for file in study.files]


def adapter_for(server: MlServer, store: Files) -> ModelAdapter:
    config = OpenInferenceConfig(processes=1, servers=[{"url": server.base_url}])  # type: ignore[list-item]
    return OPEN_INFERENCE.build(config, AdapterContext("open_inference", store, WallClock()))


def graph_of(package: ModelPackage) -> Path:
    runtime = package.card.runtime
    assert isinstance(runtime, OnnxRuntime)
    return package.artefacts[runtime.graph.path]


def on_server(package: ModelPackage, server: MlServer, name: str, **changes: Any) -> ModelPackage:
    """The same model, whose manifest says that the server runs it."""
    local = package.card.runtime
    assert isinstance(local, OnnxRuntime)
    runtime = OpenInferenceRuntime(
        kind="open_inference", url=server.base_url, model_name=name, inputs=local.inputs
    )
    runtime = replace(runtime, **changes)
    key = ModelKey(package.key.model_id, package.key.version, "0" * 64)
    return ModelPackage(key, replace(package.card, runtime=runtime), package.directory)


def ask(
    adapter: ModelAdapter, store: Files, files: list[bytes], package: ModelPackage
) -> InferenceResult:
    adapter.load(package)
    result = adapter.infer(request(store, files, package.key))
    assert isinstance(result, InferenceResult), result
    return result


def test_a_server_finds_what_the_hub_itself_finds(
    site: Site, remote: ModelAdapter, disc_files: list[bytes]
) -> None:
    here = site.here("disc", disc_files)
    there = ask(remote, site.store, disc_files, site.served("disc"))
    assert here.outcome is Outcome.ASSESSED
    assert here.region is not None
    assert (len(here.findings), len(here.maps)) == (2, 1)
    assert (there.findings, there.region, there.maps) == (here.findings, here.region, here.maps)
    assert here.ran_on == "onnx_local CPUExecutionProvider"
    assert there.ran_on == f"open_inference {site.server.base_url} disc"


def test_the_reference_model_answers_the_same_from_a_server(
    site: Site, remote: ModelAdapter
) -> None:
    files = [file.read_bytes() for file in phantom(site.folder / "lungs").files]
    here = site.here("lung", files)
    there = ask(remote, site.store, files, site.served("lung"))
    assert here.outcome is Outcome.ASSESSED
    assert len(here.findings) > 1
    assert (there.findings, there.region) == (here.findings, here.region)
    assert there.ran_on == f"open_inference {site.server.base_url} lung/3.1"


def test_scores_of_measured_values_are_the_same_from_a_server(
    site: Site, remote: ModelAdapter
) -> None:
    values = usual_values()
    found = []
    for adapter, package in (
        (site.local, site.packages["scores"]),
        (remote, site.served("scores")),
    ):
        adapter.load(package)
        answer = adapter.infer(request_of(case(*values), values, package.key))
        assert isinstance(answer, InferenceResult)
        found.append(answer)
    here, there = found
    assert [one.value for one in here.findings] == [1.32, None, 88]
    assert there.findings == here.findings
    assert there.ran_on == f"open_inference {site.server.base_url} scores"


# --- what is compared before a model runs ------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"), [("runtime.model_name", "other"), ("runtime.model_version", "9")]
)
def test_what_the_server_has_not_got_is_named(
    site: Site, remote: ModelAdapter, field: str, value: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        remote.load(site.served("lung", **{field.removeprefix("runtime."): value}))
    (problem,) = caught.value.problems
    assert problem.field == field
    assert "does not serve the model" in problem.message


def test_a_version_that_the_manifest_names_is_asked_for(
    site: Site, remote: ModelAdapter, disc_files: list[bytes]
) -> None:
    found = ask(remote, site.store, disc_files, site.served("lung", model_version="3.1"))
    assert found.ran_on.endswith(" lung/3.1")


def test_another_model_than_the_manifest_describes_is_refused_by_field(
    site: Site, remote: ModelAdapter
) -> None:
    with pytest.raises(ConfigError) as caught:
        remote.load(site.served("disc", served_as="lung"))
    fields = {problem.field for problem in caught.value.problems}
    assert {"runtime.inputs", "output.findings.0.output", "output.maps.0.output"} <= fields


def test_tensors_that_the_server_does_not_take_are_told(
    site: Site, remote: ModelAdapter, disc_files: list[bytes]
) -> None:
    """MLServer's REST interface does not know binary tensors, and fails on them."""
    package = site.served("disc", tensors="binary")
    remote.load(package)
    with pytest.raises((RejectedError, TransientError), match=r"answered (422|500)"):
        remote.infer(request(site.store, disc_files, package.key))


# --- a server that goes away -------------------------------------------------------------


def test_a_server_that_hangs_dies_or_changes_its_model(site: Site, disc_files: list[bytes]) -> None:
    folder = site.folder / "mortal"
    folder.mkdir()
    graph = graph_of(site.packages["disc"])
    with mlserver(folder, ServedFile("disc", graph, version="1")) as server:
        adapter = adapter_for(server, site.store)
        package = on_server(site.packages["disc"], server, "disc", timeout_seconds=2.0)
        try:
            before = ask(adapter, site.store, disc_files, package)
            asked = request(site.store, disc_files, package.key)
            _goes_away_and_comes_back(server, adapter, asked, before)
            _becomes_another(server, adapter, asked, graph)
            adapter.unload(package.key)
            assert ask(adapter, site.store, disc_files, package).ran_on.endswith(" disc/2")
            _serves_it_no_more(server, adapter, asked)
        finally:
            adapter.close()


def _goes_away_and_comes_back(
    server: MlServer, adapter: ModelAdapter, asked: InferenceRequest, before: InferenceResult
) -> None:
    server.signal(signal.SIGSTOP)
    with pytest.raises(TransientError, match="did not answer in time"):
        adapter.infer(asked)
    server.kill()
    with pytest.raises(TransientError, match="ConnectError"):
        adapter.infer(asked)
    assert adapter.health().state is HealthState.DEGRADED
    server.start()
    after = adapter.infer(asked)
    assert isinstance(after, InferenceResult)
    assert (after.findings, after.region) == (before.findings, before.region)
    assert adapter.health().state is HealthState.HEALTHY


def _becomes_another(
    server: MlServer, adapter: ModelAdapter, asked: InferenceRequest, graph: Path
) -> None:
    server.kill()
    server.serve((ServedFile("disc", graph, version="2"),))
    server.start()
    with pytest.raises(TransientError, match="now runs version 2 of the model, it was 1"):
        adapter.infer(asked)
    assert adapter.health().state is HealthState.DEGRADED


def _serves_it_no_more(server: MlServer, adapter: ModelAdapter, asked: InferenceRequest) -> None:
    server.kill()
    server.serve((ServedFile("another", server.models[0].path),))
    server.start()
    with pytest.raises(TransientError, match="does not serve the model disc"):
        adapter.infer(asked)
