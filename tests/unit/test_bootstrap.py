from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hub import bootstrap
from hub.bootstrap.hub import open_hub
from hub.bootstrap.models import load_registry
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
    models = tuple(m.model_copy(update={"adapter": "onnx_local"}) for m in hub.settings.models)
    settings = hub.settings.model_copy(update={"models": models})
    changed = replace(hub, components=components, settings=settings)
    registry = load_registry(changed, {"onnx_local": _Busy(0)})
    assert "runs vendor_http models" in registry.broken_models["lung-density"]


def test_what_the_roles_share_is_light_and_starts_no_thread() -> None:
    """Copies of a process with threads lack them; and the receiver, too, starts again from it."""
    code = (
        "import sys; from pathlib import Path; import hub.cli.serve; "
        "from hub.registry import discover; discover(); "
        "from hub.bootstrap.roles import _load_shared; _load_shared(); "
        "heavy = {'numpy', 'pydicom', 'highdicom', 'fastapi', 'dbos', 'alembic', 'onnxruntime'}; "
        "print(sorted(heavy & set(sys.modules)), len(list(Path('/proc/self/task').iterdir())))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[] 1\n"


def test_the_process_of_a_worker_does_not_load_the_runtime_of_its_models() -> None:
    code = (
        "import sys; import hub.bootstrap.worker, hub.bootstrap.models; "
        "import model_adapters.onnx_local.adapter, hub.__main__; "
        "print(sorted({'onnxruntime', 'onnx', 'highdicom', 'alembic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_process_of_a_model_does_not_load_the_command_line() -> None:
    code = "import sys; import hub.__main__; print('typer' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
