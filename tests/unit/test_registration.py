"""Packages that strangers bring: what is refused, with which words; what is kept, and how."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from hub.bootstrap import registration as bootstrap
from hub.bootstrap.hub import Hub, open_hub
from hub.bootstrap.model_register import register_of
from hub.config import load_settings
from hub.domain.registration import RegistrationState
from hub.errors import ConfigError, RejectedError, TransientError
from hub.formats.manifest.package_archive import PackageArchive
from hub.ports import ModelPackage
from hub.registration import NotYoursError, Registrar
from hub.registry import discover
from hub.store import registrations
from hub.store.package_store import Offered, OfferedArchive, OfferedFolder, OfferedManifest
from hub.store.registrations import RegistrationConflictError
from tests.unit.adapters.toy_models import graph, write_package

SETTINGS = """\
data: {data}
models: [{{package: "builtin:lung-density"}}]
routes: []
adapters: {{onnx_local: {{processes: 1}}}}
registration: {{maximum_package_mib: 1}}
"""


@dataclass
class Site:
    hub: Hub
    folder: Path

    def registrar(self, vendor: str = "") -> Registrar:
        journal = self.hub.journal("user:anna")
        return bootstrap.registrar(self.hub, register_of(self.hub), journal, only_vendor=vendor)

    def package(self, model: bytes | None = None, **changes: str) -> Path:
        """A folder with the toy model; ``changes`` are made in its manifest."""
        folder = self.folder / "package"
        shutil.rmtree(folder, ignore_errors=True)
        write_package(folder, graph() if model is None else model)
        text = (folder / "model.yaml").read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "model.yaml").write_text(text)
        return folder

    def refusal(self, offered: Offered | Path) -> list[tuple[int, str, str]]:
        """(line, field, message) of each problem; nothing is kept."""
        if isinstance(offered, Path):
            offered = OfferedFolder(offered)
        with pytest.raises(ConfigError) as caught:
            self.registrar().register(offered)
        assert self.kept() == []
        with self.hub.database.read() as connection:
            assert registrations.all_of(connection) == []
        return [(one.line, one.field, one.message) for one in caught.value.problems]

    def kept(self) -> list[str]:
        root = self.hub.settings.data / "models"
        return sorted(path.name for path in root.iterdir()) if root.exists() else []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    components = discover()
    settings = load_settings(SETTINGS.format(data=tmp_path / "var"), "caidx.yaml", components)
    hub = open_hub(settings, components)
    hub.migrate()
    yield Site(hub, tmp_path)
    hub.close()
    _unseal(tmp_path)


def _unseal(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)


@contextmanager
def zipped(folder: Path, name: str = "model.zip", **more: bytes) -> Iterator[OfferedArchive]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for path in folder.rglob("*"):
            made.write(path, path.relative_to(folder))
        for member, content in more.items():
            made.writestr(member, content)
    yield OfferedArchive(PackageArchive(file, name, maximum_bytes=1 << 20))


def test_a_package_is_checked_loaded_and_kept_read_only(site: Site) -> None:
    registration, is_new = site.registrar().register(OfferedFolder(site.package()), "first")
    assert (is_new, registration.state) == (True, RegistrationState.REGISTERED)
    assert (registration.vendor, registration.runtime_kind) == ("Test", "onnx")
    folder = site.hub.settings.data / "models" / registration.model.sha256
    assert site.kept() == [folder.name]
    assert sorted(path.name for path in folder.iterdir()) == ["model.yaml", "toy.onnx"]
    assert all(not path.stat().st_mode & 0o277 for path in (*folder.iterdir(), folder))
    children = psutil.Process().children(recursive=True)
    assert not [c for c in children if "spawn_main" in " ".join(c.cmdline())]


def test_the_same_package_again_changes_nothing(site: Site) -> None:
    first, _ = site.registrar().register(OfferedFolder(site.package()))
    with zipped(site.package()) as archive:
        again, is_new = site.registrar().register(archive)
    assert (again, is_new) == (first, False)
    assert site.kept() == [first.model.sha256]


def test_a_kept_package_that_was_damaged_is_found_out_and_can_be_brought_again(site: Site) -> None:
    first, _ = site.registrar().register(OfferedFolder(site.package()))
    folder = site.hub.settings.data / "models" / first.model.sha256
    folder.chmod(0o700)
    (folder / "toy.onnx").chmod(0o600)
    (folder / "toy.onnx").write_bytes(graph(total="ReduceMax"))
    register = register_of(site.hub)
    with pytest.raises(ConfigError, match="not the file that is pinned"):
        register.package(register.find("toy"))
    site.registrar().register(OfferedFolder(site.package()))
    register.package(register.find("toy"))


def test_only_what_the_manifest_pins_is_taken_from_a_folder(site: Site) -> None:
    folder = site.package()
    (folder / "train.py").write_text("import os")
    registration, _ = site.registrar().register(OfferedFolder(folder))
    kept = site.hub.settings.data / "models" / registration.model.sha256
    assert not (kept / "train.py").exists()
    with zipped(folder) as archive, pytest.raises(ConfigError, match=r"train\.py: is in the"):
        site.registrar().register(archive)


def test_every_mistake_of_a_manifest_is_told_with_its_line(site: Site) -> None:
    changes = {"name: Toy": "nmae: Toy", "decimals: 0": "decimals: none"}
    found = site.refusal(site.package(**changes))
    lines = (site.folder / "package" / "model.yaml").read_text().splitlines()
    at = {lines[line - 1].strip() for line, _, _ in found}
    assert {"nmae: Toy", "decimals: none"} <= at


def test_a_manifest_alone_is_not_enough_for_a_model_with_files(site: Site) -> None:
    manifest = (site.package() / "model.yaml").read_bytes()
    ((_, field, message),) = site.refusal(OfferedManifest(manifest))
    assert (field, message) == (
        "toy.onnx",
        "toy.onnx did not come with the manifest: give a folder or a ZIP file",
    )
    ((_, _, message),) = site.refusal(OfferedManifest(b"x" * (1 << 20) + b"x"))
    assert "is larger than any may be" in message


def test_another_file_than_the_pinned_one_is_refused(site: Site) -> None:
    folder = site.package()
    (folder / "toy.onnx").write_bytes(graph(total="ReduceMax"))
    ((line, field, message),) = site.refusal(folder)
    assert (field, line > 1) == ("runtime.graph.sha256", True)
    assert "not the file that is pinned here" in message


def test_a_file_of_an_installed_distribution_is_none_of_a_registered_package(site: Site) -> None:
    path = "python:openecg/models/codec_v6_int8.onnx"
    ((line, field, message),) = site.refusal(site.package(**{"path: toy.onnx": f"path: '{path}'"}))
    assert (field, line > 1) == ("runtime.graph.path", True)
    assert "must be a file of the package" in message


@pytest.mark.parametrize("kind", ["pickle", "truncated", "text", "empty"])
def test_what_is_no_onnx_model_is_refused(site: Site, kind: str, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'exploded'}",)

    contents = {
        "pickle": pickle.dumps(Bomb()),
        "truncated": graph()[:-40],
        "text": b"import torch",
        "empty": b"",
    }
    ((_, field, message),) = site.refusal(site.package(contents[kind]))
    assert field == "runtime.graph"
    assert "is not an ONNX file" in message or "cannot be loaded" in message
    assert not (tmp_path / "exploded").exists()


def _external(location: str) -> bytes:
    """The toy graph with its constant kept in another file."""
    model = onnx.load_from_string(graph())
    (tensor,) = model.graph.initializer
    tensor.raw_data = b""
    del tensor.float_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "weights.bin", "link.bin"])
def test_external_data_that_is_not_pinned_is_refused(site: Site, location: str) -> None:
    (site.folder / "secret").write_bytes(bytes(4))
    folder = site.package(_external(location))
    (folder / "weights.bin").write_bytes(bytes(4))
    (folder / "link.bin").symlink_to(site.folder / "secret")
    ((_, field, message),) = site.refusal(folder)
    assert field == "runtime.external_data"
    assert f"the graph keeps tensors in {location}, which is not listed" in message


def _pinning(path: str, content: bytes) -> dict[str, str]:
    digest = hashlib.sha256(content).hexdigest()
    entry = f'  external_data: [{{path: "{path}", sha256: "{digest}"}}]\n  inputs:'
    return {"  inputs:": entry}


def test_pinned_external_data_is_taken_along(site: Site) -> None:
    folder = site.package(_external("w/zero.bin"), **_pinning("w/zero.bin", bytes(4)))
    (folder / "w").mkdir()
    (folder / "w" / "zero.bin").write_bytes(bytes(4))
    with zipped(folder) as archive:
        registration, _ = site.registrar().register(archive)
    kept = site.hub.settings.data / "models" / registration.model.sha256
    assert (kept / "w" / "zero.bin").read_bytes() == bytes(4)
    assert stat.S_IMODE((kept / "w").stat().st_mode) == 0o500


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname"])
def test_a_manifest_cannot_pin_what_lies_outside(site: Site, path: str) -> None:
    (site.folder / "secret").write_bytes(bytes(4))
    folder = site.package(_external(path), **_pinning(path, bytes(4)))
    ((_, field, message),) = site.refusal(folder)
    assert field == "runtime.external_data.0.path"
    assert "stays inside the package" in message


@pytest.mark.parametrize("made", ["link", "pipe"])
def test_a_link_out_of_a_folder_and_a_pipe_are_not_read(site: Site, made: str) -> None:
    (site.folder / "secret").write_bytes(bytes(4))
    folder = site.package(_external("a.bin"), **_pinning("a.bin", bytes(4)))
    if made == "link":
        (folder / "a.bin").symlink_to(site.folder / "secret")
    else:
        os.mkfifo(folder / "a.bin")
    ((_, _, message),) = site.refusal(folder)
    assert "lies outside the package" in message or "there is no file a.bin" in message


def test_an_operator_that_is_no_onnx_is_refused(site: Site) -> None:
    custom = helper.make_node("Evil", ["x"], ["ignored"], domain="com.acme")
    model = onnx.load_from_string(graph(extra=(custom,)))
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    ((_, field, message),) = site.refusal(site.package(bytes(model.SerializeToString())))
    assert (field, "cannot be loaded" in message) == ("runtime.graph", True)


def test_a_package_that_is_too_large_is_refused_while_it_is_read(site: Site) -> None:
    content = bytes(2 << 20)
    folder = site.package(_external("a.bin"), **_pinning("a.bin", content))
    (folder / "a.bin").write_bytes(content)
    ((_, field, message),) = site.refusal(folder)
    assert (field, message) == ("a.bin", "a.bin is larger than any may be")


def test_a_runtime_that_no_adapter_runs_is_named(site: Site) -> None:
    changed = site.hub.components.adapters | {}
    changed.pop("onnx_local")
    hub = Hub(
        **{
            **{name: getattr(site.hub, name) for name in Hub.__slots__},
            "components": type(site.hub.components)({}, changed, {}),
        }
    )
    package = site.package()
    registrar = bootstrap.registrar(hub, register_of(site.hub), hub.journal("user:anna"))
    with pytest.raises(ConfigError, match=r"runtime\.kind: no adapter that runs onnx models"):
        registrar.register(OfferedFolder(package))


def test_a_model_that_loads_for_too_long_is_not_kept(site: Site) -> None:
    settings = site.hub.settings
    short = settings.registration.model_copy(update={"load_seconds": 0.001})
    values = {name: getattr(site.hub, name) for name in Hub.__slots__}
    hub = Hub(**values | {"settings": settings.model_copy(update={"registration": short})})
    registrar = bootstrap.registrar(hub, register_of(hub), hub.journal("user:anna"))
    with pytest.raises(TransientError, match="took more than"):
        registrar.register(OfferedFolder(site.package()))
    assert site.kept() == []


def test_an_id_of_the_configuration_is_taken(site: Site) -> None:
    package = site.package(**{"id: toy": "id: lung-density"})
    with pytest.raises(RegistrationConflictError, match="stands in the configuration"):
        site.registrar().register(OfferedFolder(package))


def test_a_vendor_registers_and_stops_only_its_own_models_and_activates_none(site: Site) -> None:
    package = site.package()
    with pytest.raises(NotYoursError, match="another vendor's"):
        site.registrar("Umbrella").register(OfferedFolder(package))
    registration, _ = site.registrar("Test").register(OfferedFolder(package))
    register = register_of(site.hub)
    kept = register.package(register.find("toy"))
    with pytest.raises(NotYoursError, match="whoever runs the hub"):
        site.registrar("Test").activate(kept, "why not")
    site.registrar().activate(kept, "it was tried")
    with pytest.raises(NotYoursError):
        site.registrar("Umbrella").suspend(registration.model, registration.vendor, "spite")
    site.registrar("Test").suspend(registration.model, registration.vendor, "a fault")


def test_what_cannot_be_tried_now_is_not_activated(site: Site) -> None:
    site.registrar().register(OfferedFolder(site.package()))
    register = register_of(site.hub)
    kept = register.package(register.find("toy"))

    def fails(_: ModelPackage) -> None:
        raise TransientError("its server is away")

    with pytest.raises(TransientError):
        replace(site.registrar(), try_out=fails).activate(kept, "it was tried")
    with site.hub.database.read() as connection:
        (found,) = registrations.all_of(connection)
    assert found.state is RegistrationState.REGISTERED


def test_a_reason_is_needed(site: Site) -> None:
    registration, _ = site.registrar().register(OfferedFolder(site.package()))
    with pytest.raises(RejectedError, match="a reason is needed"):
        site.registrar().retire(registration.model, registration.vendor, "  ")


_KILLED = """
import sys
from pathlib import Path
from hub.store.package_store import OfferedFolder, PackageStore
store = PackageStore(Path(sys.argv[1]))
with store.taking(OfferedFolder(Path(sys.argv[2]))) as package:
    if sys.argv[3] == "kept":
        store.keep(package)
    print("there", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("when", ["taken", "kept"])
def test_a_process_that_is_killed_leaves_no_half_package(site: Site, when: str) -> None:
    root = site.hub.settings.data / "models"
    arguments = [sys.executable, "-c", _KILLED, str(root), str(site.package()), when]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGKILL)
    whole = [name for name in site.kept() if not name.startswith("incoming-")]
    assert len(whole) == (when == "kept")
    registration, is_new = site.registrar().register(OfferedFolder(site.package()))
    assert is_new
    assert registration.model.sha256 in site.kept()


def test_what_a_crash_left_behind_is_removed_after_a_day(site: Site) -> None:
    root = site.hub.settings.data / "models"
    for name in ("incoming-old", "incoming-new"):
        (root / name).mkdir(parents=True)
    os.utime(root / "incoming-old", (0, 0))
    registration, _ = site.registrar().register(OfferedFolder(site.package()))
    assert site.kept() == sorted(["incoming-new", registration.model.sha256])
