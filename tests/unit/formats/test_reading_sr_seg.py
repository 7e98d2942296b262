"""SR and SEG that others wrote, and our own, as input: against highdicom and pydicom."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import data_store
import highdicom
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.uid import ComprehensiveSRStorage

from hub.domain.delivery import DocumentKind
from hub.domain.study import Instance, Location
from hub.errors import CaidxError, RejectedError, UnsuitableError
from hub.formats.dicom.header import instance_from_header, scan_header, split_part10
from hub.formats.images.image import read_single_image
from hub.formats.images.volume import read_volume
from hub.formats.seg.reading import SegmentationOfOthers, read_segmentation
from hub.formats.sr.reading import read_report
from tests import builders
from tests.unit.formats.encoded import all_documents
from tests.unit.imaging import ct_dataset, ct_slice, file_bytes

SAMPLES = Path(data_store.__file__).parent / "data"
SETS = "dicom/dcmqi-sr-seg"


# --- structured reports ------------------------------------------------------------------


def test_the_measurements_of_a_real_report_are_those_that_highdicom_finds(
    shared_data: Path,
) -> None:
    file = shared_data / SETS / "sr-example/sr.dcm"
    report = read_report(file.read_bytes())
    nums = [item for item in _items(pydicom.dcmread(file)) if item.ValueType == "NUM"]
    assert len(report.measurements) == len(nums) > 0
    for measurement, item in zip(report.measurements, nums, strict=True):
        [measured] = item.MeasuredValueSequence
        assert measurement.value == float(measured.NumericValue)
        assert measurement.unit.code_value == measured.MeasurementUnitsCodeSequence[0].CodeValue
        assert measurement.name.code_meaning == item.ConceptNameCodeSequence[0].CodeMeaning
    groups = highdicom.sr.srread(file).content.get_volumetric_roi_measurement_groups()
    theirs = {
        (group.tracking_uid, float(measurement.value))
        for group in groups
        for measurement in group.get_measurements()
    }
    ours = {(m.group.tracking_uid, m.value) for m in report.measurements}
    assert theirs
    assert theirs <= ours
    assert report.template == "1500"
    segmentation = pydicom.dcmread(shared_data / SETS / "sr-example/seg.dcm")
    assert segmentation.SOPInstanceUID in report.referenced_sop_instance_uids


def _items(item: Dataset) -> list[Dataset]:
    children = list(item.get("ContentSequence") or ())
    return [one for child in children for one in (child, *_items(child))]


def test_our_own_report_comes_back() -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    result = builders.assessed(request)
    documents = all_documents(request, result)
    report = read_report(documents[DocumentKind.SR].content)
    expected = {(f.code.code_value, f.value, f.tracking_uid) for f in result.findings if f.unit}
    got = {(m.name.code_value, m.value, m.group.tracking_uid) for m in report.measurements}
    assert expected <= got
    assert report.is_complete
    assert not report.is_verified
    assert documents[DocumentKind.SEG].document_id in report.referenced_sop_instance_uids


def test_a_report_without_measurements_is_an_empty_list() -> None:
    file = Path(str(get_testdata_file("reportsi.dcm")))
    report = read_report(file.read_bytes())
    assert report.measurements == ()
    assert report.title.code_meaning


def _nested_report(depth: int) -> bytes:
    """Containers in containers, each in a sequence and an item of undefined length."""
    root = Dataset()
    root.SOPClassUID, root.SOPInstanceUID = ComprehensiveSRStorage, "1.2.3"
    name = Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "1", "99X", "X"
    root.ConceptNameCodeSequence = [name]
    root.ValueType = "CONTAINER"
    opened = b"\x40\x00\x30\xa7SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closed = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    return file_bytes(root) + opened * depth + closed * depth


def test_a_report_nested_ten_thousand_deep_is_refused() -> None:
    with pytest.raises(RejectedError, match="RecursionError"):
        read_report(_nested_report(10_000))
    assert read_report(_nested_report(3)).measurements == ()


def test_a_report_of_too_many_items_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.formats.sr.reading.MAXIMUM_CONTENT_ITEMS", 2)
    with pytest.raises(RejectedError, match="more than 2 content items"):
        read_report(_nested_report(3))


# --- segmentations -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "sr-example/seg.dcm",
        "segmentations/liver.dcm",
        "segmentations/partial_overlaps.dcm",
        "segmentations/sparse-labelmap-noppv.dcm",
        "segmentations/sparse-labelmap-ppv5.dcm",
    ],
)
def test_segmentations_of_others_are_read_as_pydicom_reads_them(
    shared_data: Path, name: str
) -> None:
    file = shared_data / SETS / name
    found = read_segmentation(file.read_bytes())
    reference = pydicom.dcmread(file)
    assert np.array_equal(found.masks, reference.pixel_array.reshape(found.masks.shape))
    segments = reference.SegmentSequence
    assert [s.number for s in found.segments] == [int(s.SegmentNumber) for s in segments]
    assert [s.label for s in found.segments] == [str(s.SegmentLabel) for s in segments]
    for segment, theirs in zip(found.segments, segments, strict=True):
        kind = theirs.SegmentedPropertyTypeCodeSequence[0]
        assert segment.property_type.code_value == kind.CodeValue
    for place, group in zip(found.frames, reference.PerFrameFunctionalGroupsSequence, strict=True):
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert place.image_position_patient == pytest.approx([float(p) for p in position])
    _segments_are_whole(found, reference)


def _segments_are_whole(found: SegmentationOfOthers, reference: Dataset) -> None:
    if found.type == "LABELMAP":
        return
    for segment in found.segments:
        numbers = [
            int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            if "SegmentIdentificationSequence" in group
            else 1
            for group in reference.PerFrameFunctionalGroupsSequence
        ]
        frames = reference.pixel_array.reshape(found.masks.shape)[
            [number == segment.number for number in numbers]
        ]
        assert np.array_equal(found.mask_of(segment.number), frames)


def test_our_own_segmentation_comes_back() -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    result = builders.assessed(request)
    found = read_segmentation(all_documents(request, result)[DocumentKind.SEG].content)
    assert result.region is not None
    labels = np.frombuffer(result.region.labels, np.uint8)
    for segment in result.region.segments:
        expected = int(np.isin(labels, result.region.values_of(segment.number)).sum())
        assert int(found.mask_of(segment.number).sum()) == expected
    drawn_on = {uid for uids in found.referenced_sop_instance_uids for uid in uids}
    assert drawn_on <= set(result.region.sop_instance_uids)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"NumberOfFrames": 65536, "Rows": 65535, "Columns": 65535}, "larger than any real one"),
        ({"NumberOfFrames": 1_000_000}, "1000000 frames"),
        ({"NumberOfFrames": 40}, "bytes cannot hold"),
        ({"NumberOfFrames": 2}, "functional groups of 3 frames, pixels of 2"),
        ({"BitsAllocated": 64}, "64 bits"),
    ],
)
def test_a_segmentation_that_claims_what_it_cannot_hold_is_refused(
    changes: dict[str, int], said: str
) -> None:
    data_set = pydicom.dcmread(SAMPLES / "liver.dcm")
    for keyword, value in changes.items():
        setattr(data_set, keyword, value)
    with pytest.raises(RejectedError, match=said):
        read_segmentation(file_bytes(data_set))


@pytest.mark.parametrize("read", [read_report, read_segmentation])
def test_an_image_is_neither_report_nor_segmentation(read: Any) -> None:
    with pytest.raises(UnsuitableError, match="not a"):
        read(ct_slice(0))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("read", "name"), [(read_report, "test-SR.dcm"), (read_segmentation, "liver_1frame.dcm")]
)
def test_damaged_objects_raise_nothing_but_our_own_errors(read: Any, name: str) -> None:
    whole = Path(str(get_testdata_file(name))).read_bytes()
    generator = np.random.default_rng(5)
    for _ in range(150):
        data = bytearray(whole)
        for at in generator.integers(132, min(len(data), 7000), generator.integers(1, 8)):
            data[at] = generator.integers(0, 256)
        try:
            read(bytes(data))
        except CaidxError:
            continue


# --- beside them -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["24x38x3", "23x38x3"])
def test_a_real_converted_series_is_the_volume_of_its_slices(shared_data: Path, name: str) -> None:
    folder = shared_data / SETS / "segmentations" / name
    slices = [path.read_bytes() for path in sorted((folder / "image").glob("*.dcm"))]
    classic = read_volume(slices, len(slices), spacing_tolerance=0.01)
    multi = read_volume([(folder / "multiframe/mf.dcm").read_bytes()], 1, spacing_tolerance=0.01)
    assert np.array_equal(classic.stored_values, multi.stored_values)
    assert np.allclose(classic.geometry.affine, multi.geometry.affine, atol=1e-4)


@pytest.mark.parametrize("bits", [32, 16])
def test_a_parametric_map_is_refused_by_name(bits: int) -> None:
    floats = np.zeros(24, "<f4").tobytes()
    data_set = ct_dataset(0, PixelData=None, FloatPixelData=floats, BitsAllocated=bits)
    with pytest.raises(UnsuitableError, match=r"pixels of 32 bits|floating-point pixels"):
        read_single_image(file_bytes(data_set))


# --- the model guide -----------------------------------------------------------------------


class Files:
    """hub.ports.ObjectStore over files; the segment of a location names one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, location: Location) -> bytes:
        return (self.folder / location.segment).read_bytes()

    def series(self, *names: str) -> SimpleNamespace:
        return SimpleNamespace(instances=[self._instance(name) for name in names])

    def _instance(self, name: str) -> Instance:
        syntax, data_set = split_part10((self.folder / name).read_bytes())
        scan = scan_header(data_set, syntax)
        return instance_from_header(scan, sha256="0" * 64, location=Location(name, 0, 1))


def test_the_example_of_the_model_guide_reads_reports_and_segmentations(
    shared_data: Path,
) -> None:
    guide = Path(__file__).parents[3] / "docs" / "model-guide.md"
    fence = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    examples = [block for block in fence.findall(guide.read_text()) if "read_report" in block]
    (example,) = examples
    names: dict[str, Any] = {}
    exec(compile(example, str(guide), "exec"), names)  # noqa: S102 - our own document
    files = Files(shared_data / SETS / "sr-example")
    series = files.series("sr.dcm", "seg.dcm")
    report = read_report((files.folder / "sr.dcm").read_bytes())
    measured = list(names["measured"](files, series))
    assert [row[2] for row in measured] == [one.value for one in report.measurements]
    assert [row[0] for row in measured] == [m.group.tracking_uid for m in report.measurements]
    seg = pydicom.dcmread(files.folder / "seg.dcm")
    outlined = list(names["outlined"](files, series))
    assert [label for label, _ in outlined] == [item.SegmentLabel for item in seg.SegmentSequence]
    assert sum(pixels for _, pixels in outlined) == int(seg.pixel_array.sum())
