"""Models on objects beyond classic CT: enhanced CT, CR of both polarities, ultrasound."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import data_store
import highdicom
import numpy as np
import onnx
import pydicom
import pytest
from onnx import TensorProto, helper

from hub.domain.delivery import DocumentKind
from hub.domain.inference import (
    ImagingInput,
    InferenceRequest,
    InferenceResult,
    InputRole,
    Outcome,
    Priority,
    Unsuitable,
)
from hub.domain.intended_use import unsuitable_reasons
from hub.errors import IntegrityError, RejectedError
from hub.formats.images.ct_phantom import ChestPhantom, chest_phantom
from hub.ports import AdapterContext, ModelPackage
from hub.store.packages import read_package
from model_adapters.onnx_local import ADAPTER
from tests.unit.enhanced import enhanced_ct
from tests.unit.formats.encoded import all_documents, validator_errors
from tests.unit.imaging import ct_slice, file_bytes
from tests.unit.reference_models.test_end_to_end import Files, Now, package, stored, values

SAMPLES = Path(data_store.__file__).parent / "data"
Ask = Callable[[ModelPackage, list[bytes]], tuple[InferenceRequest, InferenceResult | Unsuitable]]

MANIFEST = """\
id: mean
name: Mean
version: 1.0.0
vendor: {name: Test}
description: Mean brightness of one image.
licence: Apache-2.0
intended_use:
  purpose: test
  modalities: [CR, DX, US, CT]
  sop_classes: [%CLASSES%]
regulation: {medical_device: false}
procedure:
  title: Mean
  report_code: {code_value: 18748-4, coding_scheme_designator: LN, code_meaning: Study}
  procedure_reported: {code_value: P, coding_scheme_designator: 99T, code_meaning: Image}
input: {kind: image%INPUT%}
preprocessing:
%STEPS%
runtime:
  kind: onnx
  graph: {path: mean.onnx, sha256: "%SHA%"}
  inputs: [{name: x, axes: %AXES%}%FEED%]
output:
  findings:
    - kind: measurement
      output: mean
      code: {code_value: M, coding_scheme_designator: 99T, code_meaning: Mean}
      unit: {code_value: "1", coding_scheme_designator: UCUM, code_meaning: no units}
      tracking_identifier: the mean
      decimals: 5
"""
CR, US, US_MULTI = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("1", "6.1", "3.1"))


def mean_model(
    folder: Path,
    *steps: str,
    wanted: str = "",
    axes: str = "1 1 row column",
    feed: str = "",
    rank: int = 4,
) -> ModelPackage:
    """The mean of the prepared image, and of its millimetres where they are fed."""
    folder.mkdir()
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * rank)]
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0)]
    if feed:
        inputs.append(helper.make_tensor_value_info("mm", TensorProto.FLOAT, [2]))
        nodes = [helper.make_node("ReduceMean", ["mm"], ["mean"], keepdims=0)]
    graph = helper.make_graph(
        nodes, "mean", inputs, [helper.make_tensor_value_info("mean", TensorProto.FLOAT, [])]
    )
    opset = [helper.make_opsetid("", 17)]
    model = onnx.ModelProto.SerializeToString(
        helper.make_model(graph, opset_imports=opset, ir_version=9)
    )
    (folder / "mean.onnx").write_bytes(model)
    text = MANIFEST.replace("%SHA%", hashlib.sha256(model).hexdigest())
    for name, value in {
        "%CLASSES%": f"{CR}, {US}, {US_MULTI}, 1.2.840.10008.5.1.4.1.1.2.1",
        "%INPUT%": f", {wanted}" if wanted else "",
        "%STEPS%": "\n".join(f"  - {{{step}}}" for step in steps) or "  []",
        "%AXES%": axes,
        "%FEED%": f", {{name: mm, feed: {feed}}}" if feed else "",
    }.items():
        text = text.replace(name, value)
    (folder / "model.yaml").write_text(text)
    return read_package(folder)


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Gate and adapter on the files of one series."""
    folder = tmp_path_factory.mktemp("objects")
    adapter = ADAPTER.build(
        ADAPTER.config(processes=1), AdapterContext("local", Files(folder), Now())
    )
    loaded: set[Any] = set()

    def run(
        package: ModelPackage, files: list[bytes]
    ) -> tuple[InferenceRequest, InferenceResult | Unsuitable]:
        if package.key not in loaded:
            adapter.load(package)
            loaded.add(package.key)
        study = stored(files, folder)
        request = InferenceRequest(
            request_id="r",
            model=package.key,
            route="test",
            priority=Priority.ROUTINE,
            study=study,
            inputs=(ImagingInput(InputRole.CURRENT, study.series),),
            reasons=("test",),
        )
        reasons = unsuitable_reasons(package.card, study, study.series)
        if reasons:
            return request, Unsuitable("r", reasons)
        answer = adapter.infer(request)
        assert isinstance(answer, InferenceResult | Unsuitable)
        return request, answer

    yield run
    adapter.close()


def number(answer: tuple[InferenceRequest, InferenceResult | Unsuitable]) -> float:
    result = answer[1]
    assert isinstance(result, InferenceResult), result
    (value,) = values(result).values()
    return value


def refusal(answer: tuple[InferenceRequest, InferenceResult | Unsuitable]) -> str:
    assert isinstance(answer[1], Unsuitable), answer[1]
    return "; ".join(answer[1].reasons)


# --- enhanced CT -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phantom() -> ChestPhantom:
    return chest_phantom(slices=12, rows=256, columns=256)


@pytest.fixture(scope="module")
def lung_density() -> ModelPackage:
    return package("lung-density")


@pytest.mark.parametrize("backwards", [False, True])
def test_lung_density_says_the_same_of_the_enhanced_object(
    ask: Ask,
    phantom: ChestPhantom,
    lung_density: ModelPackage,
    tmp_path: Path,
    backwards: bool,
) -> None:
    _, classic = ask(lung_density, phantom.files)
    order = list(range(12))[:: -1 if backwards else 1]
    file = enhanced_ct(phantom.files, order=order)
    request, enhanced = ask(lung_density, [file])
    assert isinstance(classic, InferenceResult)
    assert isinstance(enhanced, InferenceResult)
    assert enhanced.outcome is Outcome.ASSESSED
    assert values(enhanced) == values(classic)
    assert classic.region is not None
    assert enhanced.region is not None
    assert enhanced.region.labels == classic.region.labels
    assert all(len(f.evidence) == 1 and not f.evidence[0].frame_numbers for f in enhanced.findings)
    _documents_refer_to_frames(request, enhanced, file, tmp_path)


def _documents_refer_to_frames(
    request: InferenceRequest, result: InferenceResult, file: bytes, folder: Path
) -> None:
    documents = all_documents(request, result)
    assert set(documents) >= {DocumentKind.SEG, DocumentKind.SR}
    for document in documents.values():
        if document.kind in (DocumentKind.SEG, DocumentKind.SR):
            assert validator_errors(document, folder) == []
    source = pydicom.dcmread(io.BytesIO(file))
    content = BytesIO(documents[DocumentKind.SEG].content)
    segmentation = highdicom.seg.segread(content)
    [series] = segmentation.ReferencedSeriesSequence
    assert len(series.ReferencedInstanceSequence) == 1
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        [drawn_on] = frame.DerivationImageSequence[0].SourceImageSequence
        assert drawn_on.ReferencedSOPInstanceUID == source.SOPInstanceUID
        groups = source.PerFrameFunctionalGroupsSequence[drawn_on.ReferencedFrameNumber - 1]
        expected = groups.PlanePositionSequence[0].ImagePositionPatient
        assert frame.PlanePositionSequence[0].ImagePositionPatient == expected
    [measures] = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.SliceThickness == 2.5
    _pixels_are_those_of(result, segmentation, source)


def _pixels_are_those_of(
    result: InferenceResult, segmentation: Any, source: pydicom.Dataset
) -> None:
    """highdicom finds each voxel where the region has it, by the frames' own numbers."""
    region = result.region
    assert region is not None
    numbers = [frame.number for frame in region.frames]
    masks = segmentation.get_pixels_by_source_frame(
        source.SOPInstanceUID, numbers, assert_missing_frames_are_empty=True
    )
    labels = np.frombuffer(region.labels, np.uint8).reshape(-1, region.rows, region.columns)
    for index, segment in enumerate(sorted(s.number for s in region.segments)):
        expected = np.isin(labels, region.values_of(segment))
        assert np.array_equal(masks[..., index].astype(bool), expected)


def test_limits_on_slices_hold_for_frames_too(
    ask: Ask, phantom: ChestPhantom, lung_density: ModelPackage
) -> None:
    thick = chest_phantom(slices=4, rows=64, columns=64, slice_spacing_mm=8.0)
    said = refusal(ask(lung_density, [enhanced_ct(thick.files)]))
    assert "The slices are 8 mm thick; the model is for at most 5 mm." in said
    _, study = ask(lung_density, [enhanced_ct(phantom.files)])
    assert isinstance(study, InferenceResult)


def _with_use(package: ModelPackage, **changes: Any) -> ModelPackage:
    card = replace(package.card, intended_use=replace(package.card.intended_use, **changes))
    key = replace(package.key, version=f"{sorted(changes.items())}")
    return replace(package, card=card, key=key)


def test_frames_count_as_images(
    ask: Ask, phantom: ChestPhantom, lung_density: ModelPackage
) -> None:
    file = enhanced_ct(phantom.files)
    assert "has 12 images" in refusal(ask(_with_use(lung_density, minimum_instances=13), [file]))
    _, enough = ask(_with_use(lung_density, minimum_instances=12), [file])
    assert isinstance(enough, InferenceResult)


def test_a_coded_contrast_agent_is_seen(
    ask: Ask, phantom: ChestPhantom, lung_density: ModelPackage
) -> None:
    """Enhanced objects have no ContrastBolusAgent (0018,0010), but a sequence (0018,0012)."""
    agent = pydicom.Dataset()
    agent.CodeValue, agent.CodingSchemeDesignator = "C-B0322", "SRT"
    agent.CodeMeaning = "Iopamidol"
    with_agent = enhanced_ct(phantom.files, ContrastBolusAgentSequence=[agent])
    without = enhanced_ct(phantom.files)
    forbidden = _with_use(lung_density, contrast="forbidden")
    required = _with_use(lung_density, contrast="required")
    assert "images without" in refusal(ask(forbidden, [with_agent]))
    assert "the model needs it" in refusal(ask(required, [without]))
    for model, file in ((forbidden, without), (required, with_agent)):
        assert isinstance(ask(model, [file])[1], InferenceResult)


def test_absurd_claims_reserve_no_memory_for_labels(
    ask: Ask, phantom: ChestPhantom, lung_density: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("memory was asked for")

    monkeypatch.setattr("model_adapters.tensors.processes._shared_memory", never)
    small = chest_phantom(slices=4, rows=64, columns=64)
    absurd = {"Rows": 65535, "Columns": 65535}
    for file in (
        enhanced_ct(small.files, **absurd, NumberOfFrames=1_000_000),
        enhanced_ct(small.files, NumberOfFrames=1_000_000),
        enhanced_ct(small.files, Rows=4096, Columns=4096),
    ):
        assert "claims more pixels than its file can hold" in refusal(ask(lung_density, [file]))


def test_a_region_on_frames_that_do_not_exist_is_never_encoded(
    ask: Ask, phantom: ChestPhantom, lung_density: ModelPackage
) -> None:
    request, result = ask(lung_density, [enhanced_ct(phantom.files)])
    assert isinstance(result, InferenceResult)
    assert result.region is not None
    beyond = tuple(replace(frame, number=13) for frame in result.region.frames)
    with pytest.raises(IntegrityError, match="does not have"):
        all_documents(request, replace(result, region=replace(result.region, frames=beyond)))
    nameless = replace(result, region=replace(result.region, frames=()))
    with pytest.raises(RejectedError, match="does not name the frames"):
        all_documents(request, nameless)


# --- CR ----------------------------------------------------------------------------------


def chest_radiograph(**changes: Any) -> pydicom.Dataset:
    """RG1 of the NEMA compression set: a real chest, MONOCHROME1, 15 bits."""
    data_set = pydicom.dcmread(SAMPLES / "RG1_UNCR.dcm")
    for keyword, value in changes.items():
        setattr(data_set, keyword, value)
    return data_set


def other_polarity(data_set: pydicom.Dataset) -> pydicom.Dataset:
    """The same picture as MONOCHROME2: every stored value x becomes the highest one - x."""
    highest = (1 << data_set.BitsStored) - 1
    stored = highest - data_set.pixel_array
    data_set.PixelData = stored.astype("<u2").tobytes()
    data_set.PhotometricInterpretation = "MONOCHROME2"
    if "WindowCenter" in data_set:  # C.11.2.1.2.1 counts from half a value below
        data_set.WindowCenter = highest - float(data_set.WindowCenter) + 1
    return data_set


@pytest.mark.parametrize(
    "steps",
    [
        ("kind: present", "kind: resize, shape: [64, 60]"),
        ("kind: monochrome2", "kind: resize, shape: [64, 60]", "kind: normalise, mean: 9000"),
    ],
)
def test_both_polarities_of_a_radiograph_give_the_same_finding(
    ask: Ask, tmp_path: Path, steps: tuple[str, ...]
) -> None:
    model = mean_model(tmp_path / "mean", *steps)
    window = {"WindowCenter": 9000, "WindowWidth": 8001}
    first = number(ask(model, [file_bytes(chest_radiograph(**window))]))
    second = number(ask(model, [file_bytes(other_polarity(chest_radiograph(**window)))]))
    assert first == pytest.approx(second, rel=1e-5)
    plain = mean_model(tmp_path / "plain", "kind: resize, shape: [64, 60]")
    ignorant = [
        number(ask(plain, [file_bytes(data_set)]))
        for data_set in (chest_radiograph(), other_polarity(chest_radiograph()))
    ]
    assert abs(ignorant[0] - ignorant[1]) > 100, "the polarity matters in this image"


def test_only_millimetres_in_the_patient_are_given_to_a_model(ask: Ask, tmp_path: Path) -> None:
    """PS3.3 10.7.1: ImagerPixelSpacing is at the detector, where the body is magnified."""
    data_set = chest_radiograph()
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        if keyword in data_set:
            delattr(data_set, keyword)
    data_set.ImagerPixelSpacing = [0.2, 0.2]
    patient = mean_model(tmp_path / "a", feed="spacing_mm")
    detector = mean_model(tmp_path / "b", wanted="spacing: detector", feed="spacing_mm")
    at_detector = "the pixel spacing is that at the detector, not one in the patient"
    assert at_detector in refusal(ask(patient, [file_bytes(data_set)]))
    _, measured = ask(detector, [file_bytes(data_set)])
    assert isinstance(measured, InferenceResult)
    assert values(measured) == {"Mean": pytest.approx(0.2)}
    assert "at the detector" in measured.warnings[0]
    data_set.PixelSpacing = [0.2, 0.2]
    assert at_detector in refusal(ask(patient, [file_bytes(data_set)])), "only copied"
    data_set.PixelSpacing = [0.18, 0.18]
    assert number(ask(patient, [file_bytes(data_set)])) == pytest.approx(0.18)
    data_set.PixelSpacing = [0.2, 0.2]
    data_set.PixelSpacingCalibrationType = "FIDUCIAL"
    assert number(ask(patient, [file_bytes(data_set)])) == pytest.approx(0.2)


# --- ultrasound --------------------------------------------------------------------------


def test_a_frame_of_an_ultrasound_loop_in_colour(ask: Ask, tmp_path: Path) -> None:
    data = (SAMPLES / "color3d_jpeg_baseline.dcm").read_bytes()
    model = mean_model(
        tmp_path / "us",
        "kind: resize, shape: [480, 640]",
        "kind: crop_or_pad, shape: [480, 640]",
        wanted="frame: middle, colour: rgb",
        axes="1 channel row column",
    )
    request, result = ask(model, [data])
    assert isinstance(result, InferenceResult)
    [finding] = result.findings
    [seen] = finding.evidence
    assert seen.frame_numbers == (60,)
    expected = pydicom.pixels.pixel_array(SAMPLES / "color3d_jpeg_baseline.dcm", index=59)
    assert finding.value == pytest.approx(expected.mean(), abs=0.3)
    report = pydicom.dcmread(BytesIO(all_documents(request, result)[DocumentKind.SR].content))
    assert "(0008,1160) Referenced Frame Number" in str(report)
    grey = mean_model(tmp_path / "grey")
    assert "YBR_FULL_422" in refusal(ask(grey, [data]))


def test_an_image_of_a_ct_without_colour_is_no_input_for_a_colour_model(
    ask: Ask, tmp_path: Path
) -> None:
    model = mean_model(tmp_path / "rgb", wanted="colour: rgb", axes="1 channel row column")
    enhanced = enhanced_ct([ct_slice(0)])
    assert "grey-scale image; the model reads colour" in refusal(ask(model, [enhanced]))
