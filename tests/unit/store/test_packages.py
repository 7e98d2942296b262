from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from hub.domain.model_runtime import Artefact
from hub.errors import ConfigError
from hub.store.package_store import OfferedFolder, PackageStore
from hub.store.packages import artefact_path, read_package
from tests.unit.adapters.toy_models import MANIFEST, write_package


def refusal(folder: Path, *, path: str = "toy.onnx", digest: str = "0" * 64) -> str:
    text = MANIFEST.replace("path: toy.onnx", f"path: '{path}'").replace("%TIMEOUT%", "5")
    (folder / "model.yaml").write_text(text.replace("%SHA%", digest))
    with pytest.raises(ConfigError) as caught:
        read_package(folder)
    return str(caught.value)


def test_a_package_names_its_files(tmp_path: Path) -> None:
    package = write_package(tmp_path, b"graph")
    assert package.artefacts == {"toy.onnx": (tmp_path / "toy.onnx").resolve()}


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.yaml:0: .*cannot be read"):
        read_package(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "toy.onnx cannot be read: No such file" in refusal(tmp_path)


def test_each_file_beside_the_graph_is_the_pinned_one(tmp_path: Path) -> None:
    (tmp_path / "toy.onnx").write_bytes(b"graph")
    (tmp_path / "w.bin").write_bytes(b"other weights")
    pinned = hashlib.sha256(b"weights").hexdigest()
    entry = f'  external_data: [{{path: w.bin, sha256: "{pinned}"}}]\n  inputs:'
    text = MANIFEST.replace("%TIMEOUT%", "5").replace("  inputs:", entry)
    graph = hashlib.sha256(b"graph").hexdigest()
    (tmp_path / "model.yaml").write_text(text.replace("%SHA%", graph))
    with pytest.raises(ConfigError, match=r"w\.bin has the digest .*: not the file"):
        read_package(tmp_path)


def test_a_whole_package_that_took_the_place_of_another_is_found_out(tmp_path: Path) -> None:
    """It is all right in itself, and not what a person activated."""
    write_package(tmp_path / "brought", b"graph")
    store = PackageStore(tmp_path / "models")
    with store.taking(OfferedFolder(tmp_path / "brought")) as package:
        kept = store.keep(package)
    manifest = kept.directory / "model.yaml"
    kept.directory.chmod(0o700)
    manifest.chmod(0o600)
    manifest.write_text(manifest.read_text().replace("name: Toy", "name: Other"))
    for read in (store.read, store.card):
        with pytest.raises(ConfigError, match="is another one than was registered"):
            read(kept.key.sha256)


def test_the_files_of_a_package_share_its_limit(tmp_path: Path) -> None:
    folder, weights = tmp_path / "brought", b"w" * 600
    write_package(folder, b"g" * 600)
    (folder / "w.bin").write_bytes(weights)
    entry = f'  external_data: [{{path: w.bin, sha256: "{hashlib.sha256(weights).hexdigest()}"}}]'
    manifest = folder / "model.yaml"
    manifest.write_text(manifest.read_text().replace("  inputs:", f"{entry}\n  inputs:"))
    with PackageStore(tmp_path / "enough", maximum_bytes=1200).taking(OfferedFolder(folder)):
        pass
    with (
        pytest.raises(ConfigError, match=r"w\.bin is larger than any may be"),
        PackageStore(tmp_path / "little", maximum_bytes=1199).taking(OfferedFolder(folder)),
    ):
        pass


def test_a_link_out_of_the_package_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "toy.onnx").symlink_to(secret)
    digest = hashlib.sha256(b"secret").hexdigest()
    assert "lies outside the package" in refusal(folder, digest=digest)


def test_a_file_of_an_installed_distribution_is_found_without_importing_it(tmp_path: Path) -> None:
    already = "openecg" in sys.modules
    found = artefact_path(
        tmp_path, Artefact(path="python:openecg/models/codec_v6_int8.onnx", sha256="")
    )
    assert found.name == "codec_v6_int8.onnx"
    assert found.is_file()
    assert ("openecg" in sys.modules) == already


def test_a_path_out_of_a_distribution_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, path="python:openecg/../../secret")
    assert "inside the package" in said


def test_an_absent_distribution_names_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = refusal(tmp_path, path="python:openecg/models/x.onnx")
    assert "pip install 'caidx-hub[ecg]'" in said
