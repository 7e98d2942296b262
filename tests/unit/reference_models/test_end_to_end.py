"""Both reference models through the ONNX adapter: from DICOM files to findings."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

import model_adapters.reference_models
from hub.domain.finding import Finding, Presence
from hub.domain.inference import (
    ImagingInput,
    InferenceRequest,
    InferenceResult,
    InputRole,
    Outcome,
    Priority,
)
from hub.domain.intended_use import unsuitable_reasons
from hub.domain.model_runtime import Artefact
from hub.domain.study import Completeness, Instance, Location, Series, Study, StudyKey
from hub.formats.dicom.header import instance_from_header, scan_header
from hub.formats.dicom.part10 import split_part10
from hub.formats.images.ct_phantom import chest_phantom
from hub.formats.manifest.model_manifest import load_package
from hub.ports import AdapterContext, ModelPackage
from model_adapters.onnx_local import ADAPTER
from tests.peers import find_tool

MODELS = Path(model_adapters.reference_models.__file__).parent
LOSSY_OR_UNDECODABLE = ("1.2.4.50", "1.2.4.51", "1.2.4.53", "1.2.4.55", "1.2.4.81", "1.2.4.91")


@dataclass(frozen=True)
class Files:
    """An object store of plain files, which can be pickled."""

    folder: Path

    def read(self, location: Location) -> bytes:
        return (self.folder / location.segment).read_bytes()


class Now:
    def now(self) -> datetime:
        return datetime.now(UTC)


Infer = Callable[[str, list[bytes]], InferenceResult]


@pytest.fixture(scope="module")
def infer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Infer]:
    """Run a reference model on the Part 10 files of one series, the input gate included."""
    folder = tmp_path_factory.mktemp("objects")
    context = AdapterContext("local", Files(folder), Now())
    adapter = ADAPTER.build(ADAPTER.config(processes=1), context)
    loaded: dict[str, ModelPackage] = {}

    def run(model: str, files: list[bytes]) -> InferenceResult:
        if model not in loaded:
            loaded[model] = package(model)
            adapter.load(loaded[model])
        study = stored(files, folder)
        card = loaded[model].card
        assert unsuitable_reasons(card, study, study.series) == ()
        result = adapter.infer(
            InferenceRequest(
                request_id="r",
                model=loaded[model].key,
                route="test",
                priority=Priority.ROUTINE,
                study=study,
                inputs=(ImagingInput(InputRole.CURRENT, study.series),),
                reasons=("test",),
            )
        )
        assert isinstance(result, InferenceResult), result
        return result

    yield run
    adapter.close()


def package(model: str) -> ModelPackage:
    directory = MODELS / model
    paths: dict[str, Path] = {}

    def read(artefact: Artefact) -> bytes:
        paths[artefact.path] = located(directory, artefact.path)
        return paths[artefact.path].read_bytes()

    text = (directory / "model.yaml").read_text()
    card, key = load_package(text, "model.yaml", read)
    return ModelPackage(key, card, directory, paths)


def located(directory: Path, path: str) -> Path:
    if not path.startswith("python:"):
        return directory / path
    name, _, inner = path.removeprefix("python:").partition("/")
    found = find_spec(name)
    assert found is not None, "needs the optional extra: pip install caidx-hub[ecg]"
    assert found.origin is not None
    return Path(found.origin).parent / inner


def stored(files: list[bytes], folder: Path) -> Study:
    instances = tuple(instance(file, folder) for file in files)
    first = instances[0]
    return Study(
        key=StudyKey(first.study_instance_uid, 1),
        patient=first.patient,
        accession_number=first.accession_number,
        issuer_of_accession_number="",
        study_date="20260101",
        study_time="",
        study_description="",
        study_id="",
        referring_physician_name="",
        series=(Series(first.series_instance_uid, first.modality, instances),),
        completeness=Completeness(True, None, len(instances), None),
        received_at=datetime.now(UTC),
    )


def instance(file: bytes, folder: Path) -> Instance:
    transfer_syntax_uid, data_set = split_part10(file)
    digest = hashlib.sha256(data_set).hexdigest()
    (folder / digest).write_bytes(file)
    scan = scan_header(data_set, transfer_syntax_uid)
    return instance_from_header(scan, sha256=digest, location=Location(digest, 0, len(file)))


def values(result: InferenceResult) -> dict[str, float]:
    """Numbers by the meaning of their code."""
    return {f.code.code_meaning: f.value for f in result.findings if f.value is not None}


def test_the_phantom_comes_back_as_its_truth_with_a_segmentation(infer: Infer) -> None:
    phantom = chest_phantom(slices=12, rows=256, columns=256)
    result = infer("lung-density", phantom.files)
    assert result.outcome is Outcome.ASSESSED
    found = values(result)
    truth = phantom.truth
    assert found["Volume"] == pytest.approx(truth.lung_volume_ml, rel=0.002)
    assert found["Mean Attenuation Coefficient"] == pytest.approx(
        truth.mean_lung_density_hu, abs=0.1
    )
    assert found["Share of lung voxels below -950 HU"] == pytest.approx(
        truth.laa_950_percent, abs=0.01
    )
    assert result.region is not None
    labels = np.frombuffer(result.region.labels, np.uint8).reshape(12, 256, 256)
    voxel_ml = 1.4 * 1.4 * 2.5 / 1000
    assert (labels > 0).sum() * voxel_ml == pytest.approx(truth.lung_volume_ml, rel=0.0001)
    assert result.region.values_of(1) == (1, 2)
    assert set(result.region.sop_instance_uids) == set(phantom.sop_instance_uids)


@pytest.mark.parametrize(
    "command",
    [
        ["dcmcrle"],
        ["dcmcjpeg", "+e1"],
        ["dcmcjpeg", "+el"],
        ["dcmcjpls", "+el"],
        ["dcmconv", "+ti"],
        ["dcmconv", "+tb"],
        ["dcmconv", "+td"],
    ],
    ids=" ".join,
)
def test_lossless_transfer_syntaxes_give_the_same_numbers(
    infer: Infer, command: list[str], tmp_path: Path
) -> None:
    command = [find_tool(command[0], "dcmtk"), *command[1:]]
    (plain,) = chest_phantom(slices=1).files
    (tmp_path / "plain.dcm").write_bytes(plain)
    subprocess.run([*command, tmp_path / "plain.dcm", tmp_path / "other.dcm"], check=True)
    other = (tmp_path / "other.dcm").read_bytes()
    assert split_part10(other)[0] != split_part10(plain)[0]
    first, second = infer("lung-density", [plain]), infer("lung-density", [other])
    assert values(first)
    assert values(second) == values(first)
    assert second.region is not None
    assert first.region is not None
    assert second.region.labels == first.region.labels


def only(result: InferenceResult) -> Finding:
    (finding,) = result.findings
    return finding


def identified(path: Path) -> bytes:
    """The abdomen's files come without identifiers; they need some to be a study."""
    dataset = dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.1", "2.25.2"
    dataset.PatientID = "ABDOMEN"
    buffer = BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def test_an_abdomen_is_not_assessable_and_never_zero_percent(
    infer: Infer, shared_data: Path
) -> None:
    folder = shared_data / "dicom" / "ct-abdomen-totalsegmentator" / "example_ct_dicom"
    result = infer("lung-density", [identified(path) for path in sorted(folder.iterdir())])
    assert result.outcome is Outcome.NOT_ASSESSABLE
    assert values(result) == {}
    assert only(result).presence is Presence.NOT_ASSESSABLE
    assert "50 cm2" in " ".join(result.reasons)


def test_a_slice_without_lung_is_not_assessable_in_every_lossless_transfer_syntax(
    infer: Infer, shared_data: Path
) -> None:
    folder = shared_data / "dicom" / "ct-chest-one-slice-all-syntaxes"
    read = 0
    for path in sorted(folder.glob("*.dcm")):
        if any(path.stem.endswith(syntax) for syntax in LOSSY_OR_UNDECODABLE):
            continue
        result = infer("lung-density", [path.read_bytes()])
        assert result.outcome is Outcome.NOT_ASSESSABLE, path.name
        assert values(result) == {}
        read += 1
    assert read == 10


def test_the_ecg_agrees_with_the_machine(infer: Infer) -> None:
    file = Path(str(get_testdata_file("waveform_ecg.dcm"))).read_bytes()
    result = infer("ecg-intervals", [file])
    assert result.outcome is Outcome.ASSESSED
    found = values(result)
    assert found["R-R interval by EKG"] == pytest.approx(982, rel=0.01)
    assert found["P-R Interval"] == pytest.approx(161, abs=20)
    assert found["QRS duration"] == pytest.approx(75, abs=25)
    assert found["Q-T interval"] == pytest.approx(368, abs=25)
    (rhythm,) = (f for f in result.findings if f.coded_value)
    assert rhythm.coded_value is not None
    assert rhythm.coded_value.code_meaning == "Sinus rhythm"
    assert len({f.tracking_uid for f in result.findings}) == 1
