"""The models of a worker while their states change, and what that means for routes and requests."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hub.bootstrap.hub import Hub, open_hub
from hub.bootstrap.models import LiveModels, package_store
from hub.config import load_settings
from hub.domain.inference import ModelKey
from hub.domain.registration import RegistrationState
from hub.errors import ConfigError, ConfigProblem, RejectedError, TransientError
from hub.ports import ModelPackage
from hub.registry import Live, Registry, discover
from hub.store.package_store import OfferedFolder
from hub.store.registrations import RegistrationLedger
from hub.store.schema import alerts, requests, route_decisions
from tests.fakes import FakeAdapter, FrozenClock
from tests.unit.adapters.toy_models import graph, write_package
from tests.unit.test_pipeline import KEY, Bench, _finding
from tests.unit.test_pipeline import bench as bench  # noqa: PLC0414 - a fixture

SETTINGS = 'data: {data}\nmodels: [{{package: "builtin:lung-density"}}]\nroutes: []\n'
ACTIVE, SUSPENDED = RegistrationState.ACTIVE, RegistrationState.SUSPENDED
RETIRED = RegistrationState.RETIRED


@dataclass(slots=True)
class Counting(FakeAdapter):
    """Notes what is loaded and unloaded; refuses what it is told to."""

    notes: list[tuple[str, str]] = field(default_factory=list)
    faults: dict[str, Exception] = field(default_factory=dict)

    def load(self, package: ModelPackage) -> None:
        self.notes.append(("load", package.key.version))
        if package.key.version in self.faults:
            raise self.faults[package.key.version]

    def unload(self, model: ModelKey) -> None:
        self.notes.append(("unload", model.version))


@dataclass
class Site:
    hub: Hub
    folder: Path
    adapter: Counting
    ledger: RegistrationLedger

    def __post_init__(self) -> None:
        self.models = LiveModels(self.hub, {"onnx_local": self.adapter})

    def register(self, version: str) -> ModelKey:
        folder = self.folder / version
        write_package(folder, graph())
        manifest = folder / "model.yaml"
        manifest.write_text(manifest.read_text().replace("version: 1.0.0", f"version: {version}"))
        packages = package_store(self.hub.settings)
        with packages.taking(OfferedFolder(folder)) as package:
            packages.keep(package)
        self.ledger.add(package.key, vendor="Test", runtime_kind="onnx", reason="x")
        return package.key

    def is_now(self, model: ModelKey, state: RegistrationState) -> None:
        self.ledger.change(model, state, "why not")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    components = discover()
    settings = load_settings(SETTINGS.format(data=tmp_path / "var"), "caidx.yaml", components)
    hub = open_hub(settings, components)
    hub.migrate()
    ledger = RegistrationLedger(hub.database, hub.journal("user:anna"))
    yield Site(hub, tmp_path, Counting(FrozenClock()), ledger)
    hub.close()
    for path in tmp_path.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)


def test_a_new_version_is_loaded_before_the_old_one_goes(site: Site) -> None:
    registry = site.models.load()
    first, second = site.register("1.0.0"), site.register("2.0.0")
    site.models.look()
    assert set(registry.models) == {"lung-density"}, "registered is not active"
    site.is_now(first, ACTIVE)
    site.models.look()
    assert registry.model("toy").package.key == first
    site.is_now(second, ACTIVE)
    site.models.look()
    assert registry.model("toy").package.key == second
    assert site.adapter.notes[-3:] == [("load", "1.0.0"), ("load", "2.0.0"), ("unload", "1.0.0")]
    site.models.look()
    assert len(site.adapter.notes) == 4, "nothing has changed"


def test_a_request_that_is_pinned_to_a_replaced_version_gets_it(site: Site) -> None:
    registry = site.models.load()
    first, second = site.register("1.0.0"), site.register("2.0.0")
    site.is_now(first, ACTIVE)
    site.is_now(second, ACTIVE)
    site.models.look()
    assert registry.pinned(first).package.key == first
    assert registry.model("toy").package.key == second
    with pytest.raises(RejectedError, match="which runs no longer"):
        registry.pinned(replace(first, sha256="0" * 64))
    known = registry.card(first)
    assert known is not None
    assert known.version == "1.0.0"


def test_what_is_suspended_or_retired_is_forgotten_and_its_card_is_still_known(site: Site) -> None:
    registry = site.models.load()
    toy = site.register("1.0.0")
    site.is_now(toy, ACTIVE)
    site.models.look()
    for state, said in ((SUSPENDED, "is suspended by user:anna: why not"), (RETIRED, "neither")):
        site.is_now(toy, state)
        site.models.look()
        assert "toy" not in registry.models
        assert said in str(registry.why_not("toy"))
        assert ("toy" in registry.suspended) is (state is SUSPENDED)
        assert site.adapter.notes[-1] == ("unload", "1.0.0")
        assert registry.card(toy) is not None
    fresh = LiveModels(site.hub, {"onnx_local": site.adapter}).load()
    assert fresh.card(toy) is not None, "after a restart, too"


def test_a_model_of_the_configuration_is_suspended_too(site: Site) -> None:
    registry = site.models.load()
    key = registry.model("lung-density").package.key
    site.ledger.note_configured(key, vendor="x", runtime_kind="onnx")
    site.is_now(key, SUSPENDED)
    site.models.look()
    assert set(registry.models) == set()
    assert set(registry.suspended) == {"lung-density"}
    site.is_now(key, ACTIVE)
    site.models.look()
    assert set(registry.models) == {"lung-density"}


def test_a_version_that_does_not_load_here_is_broken_and_tried_again_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    registry = site.models.load()
    toy = site.register("1.0.0")
    site.adapter.faults["1.0.0"] = ConfigError((ConfigProblem("f", 1, "x", "no such thing"),))
    site.is_now(toy, ACTIVE)
    site.models.look()
    assert "no such thing" in str(registry.why_not("toy"))
    with pytest.raises(RejectedError, match="no such thing"):
        registry.pinned(toy)
    site.adapter.faults["1.0.0"] = TransientError("busy")
    with pytest.raises(TransientError, match="busy"):
        registry.pinned(toy)
    site.adapter.faults.clear()
    site.models.look()
    assert "toy" not in registry.models, "not at each look"
    now[0] += 60
    site.models.look()
    assert "toy" in registry.models


def test_a_study_may_use_what_was_activated_a_moment_ago(site: Site) -> None:
    registry = site.models.load()
    toy = site.register("1.0.0")
    site.is_now(toy, ACTIVE)
    registry.catch_up(["lung-density"])
    assert "toy" not in registry.models, "all that it needs runs"
    registry.catch_up(["lung-density", "toy"])
    assert "toy" in registry.models


class _Leaving(Live[str, object]):
    """All that it holds goes away as soon as somebody looks at it."""

    def keys(self) -> KeysView[str]:
        found = super().keys()
        self.replace({})
        return found

    def items(self) -> ItemsView[str, object]:
        found = super().items()
        self.replace({})
        return found


def test_a_model_may_go_away_while_the_models_of_a_job_are_noted(site: Site) -> None:
    running = dict(site.models.load().models)
    live = Registry(
        models=_Leaving(running),  # type: ignore[arg-type]
        broken_models=_Leaving({"a": "b"}),  # type: ignore[arg-type]
        suspended=_Leaving({"c": "d"}),  # type: ignore[arg-type]
    )
    found = live.snapshot()
    assert found.models == running
    assert (found.broken_models, found.suspended) == ({"a": "b"}, {"c": "d"})


def test_a_job_may_look_for_models_while_another_one_loads_one(site: Site) -> None:
    faults = site.models._faults

    class Moment(float):
        """Of the next try, which comes true in the middle of the look."""

        def __le__(self, other: float) -> bool:
            faults.clear()
            return False

    for number in range(3):
        faults[ModelKey(f"model-{number}", "1", "0" * 64)] = ("away", Moment(0.0))
    assert not site.models._is_unsettled()


def test_readers_of_a_live_mapping_meet_it_whole() -> None:
    live: Live[str, int] = Live({"a": 1})
    items = iter(live.items())
    live.replace({"b": 2})
    assert dict(items) == {"a": 1}
    assert (dict(live), list(live.keys()), list(live.values()), len(live)) == (
        {"b": 2},
        ["b"],
        [2],
        1,
    )


# --- the path of a study -------------------------------------------------------------------------


def _stop(bench: Bench, *, seen: bool) -> RegistrationLedger:
    ledger = RegistrationLedger(bench.pipeline.database, bench.pipeline.journal)
    ledger.note_configured(KEY, vendor="x", runtime_kind="onnx")
    ledger.change(KEY, SUSPENDED, "left and right")
    if seen:
        stopped = {"lung-density": "version 1.0.0 is suspended"}
        registry = Registry(suspended=stopped, destinations=bench.pipeline.registry.destinations)
        bench.pipeline = replace(bench.pipeline, registry=registry)
    return ledger


def test_a_route_whose_model_is_suspended_says_so_and_raises_no_alert_of_its_own(
    bench: Bench,
) -> None:
    _stop(bench, seen=True)
    bench.receive()
    bench.finish()
    assert bench.column(route_decisions.c.decision) == ["suspended"]
    assert bench.column(requests.c.request_id) == []
    assert bench.column(alerts.c.kind) == ["model.suspended"]


def test_a_request_of_a_suspended_model_fails_at_once_and_can_be_asked_again(
    bench: Bench,
) -> None:
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()  # the route
    ledger = _stop(bench, seen=False)  # no loop has seen it
    bench.finish()
    assert bench.adapter.asked == []
    assert bench.column(requests.c.state) == ["failed"]
    (detail,) = bench.column(requests.c.detail)
    assert "is suspended by worker:test: left and right" in str(detail)
    ledger.change(KEY, ACTIVE, "mended")
    (request_id,) = bench.column(requests.c.request_id)
    bench.pipeline.requests.ask_again(str(request_id))
    bench.finish()
    assert bench.column(requests.c.state) == ["done"]


def test_an_answer_that_comes_after_the_suspension_waits_for_a_person(bench: Bench) -> None:
    def answer(request: object) -> object:
        _stop(bench, seen=False)
        return _finding(request)  # type: ignore[arg-type]

    bench.adapter.answers = [answer]
    bench.receive()
    bench.finish()
    assert bench.column(requests.c.state) == ["quarantined"]
    (detail,) = bench.column(requests.c.detail)
    assert "while the model lung-density|1.0.0 worked, it was stopped" in str(detail)
    assert bench.destinations["pacs"].delivered == []
