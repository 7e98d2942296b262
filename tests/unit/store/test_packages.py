from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from hub.domain.model_runtime import Artefact
from hub.errors import ConfigError
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
