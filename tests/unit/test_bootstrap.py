from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hub import bootstrap
from hub.bootstrap.hub import open_hub
from hub.bootstrap.worker import load_registry
from hub.config import ModelSettings, load_settings
from hub.errors import TransientError
from hub.ports import ModelPackage
from hub.registry import discover
from tests.fakes import FakeAdapter, FrozenClock

SETTINGS = """
data: {data}
models:
  - package: builtin:lung-density
routes: []
"""


class _Busy(FakeAdapter):
    def __init__(self, failures: int) -> None:
        super().__init__(FrozenClock())
        self.failures = failures

    def load(self, package: ModelPackage) -> None:
        if self.failures:
            self.failures -= 1
            raise TransientError("the worker took too long")


@pytest.fixture
def hub(tmp_path: Path) -> bootstrap.Hub:
    components = discover()
    settings = load_settings(SETTINGS.format(data=tmp_path / "data"), "caidx.yaml", components)
    gone = ModelSettings(package=str(tmp_path / "absent"))  # removed after the check
    return open_hub(settings.model_copy(update={"models": (*settings.models, gone)}), components)


def test_a_model_that_cannot_run_is_kept_with_its_reason_and_the_others_run(
    hub: bootstrap.Hub, tmp_path: Path
) -> None:
    registry = load_registry(hub, {"onnx_local": _Busy(0)})
    assert set(registry.models) == {"lung-density"}
    ((name, reason),) = registry.broken_models.items()
    assert name == str(tmp_path / "absent")
    assert "model.yaml" in reason


def test_a_passing_fault_at_loading_is_tried_again(hub: bootstrap.Hub) -> None:
    assert set(load_registry(hub, {"onnx_local": _Busy(2)}).models) == {"lung-density"}
    assert "lung-density" in load_registry(hub, {"onnx_local": _Busy(3)}).broken_models


def test_an_adapter_is_not_given_a_model_that_it_does_not_run(hub: bootstrap.Hub) -> None:
    other = replace(hub.components.adapters["onnx_local"], runtime_kind="vendor_http")
    components = replace(hub.components, adapters={"onnx_local": other})
    registry = load_registry(replace(hub, components=components), {"onnx_local": _Busy(0)})
    assert "runs vendor_http models" in registry.broken_models["lung-density"]
