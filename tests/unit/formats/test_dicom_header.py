"""The header scanner against pydicom on real files, and against files made to hurt."""

from __future__ import annotations

import functools
import io
import math
import random
import struct
import time
import tracemalloc
import warnings as python_warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from hub.domain.study import Instance, Location
from hub.errors import RejectedError
from hub.formats.dicom.header import (
    NUMBER_ATTRIBUTES,
    TEXT_ATTRIBUTES,
    instance_from_header,
    part10,
    scan_header,
    split_part10,
)
from hub.ports import ReceivedObject

SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]
LOCATION = Location("segment", 48, 1)


# --- making data sets ---------------------------------------------------------------------


def minimal() -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.PatientName = "Canary^Yellow"
    dataset.PatientID = "CANARY-1"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = "1.2.3.1"
    return dataset


def encoded(dataset: pydicom.Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The data set alone, as it travels over the network."""
    uid = pydicom.uid.UID(syntax)
    buffer = io.BytesIO()
    native = ExplicitVRLittleEndian if uid.is_deflated else uid
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        pydicom.dcmwrite(
            buffer,
            dataset,
            implicit_vr=native.is_implicit_VR,
            little_endian=native.is_little_endian,
            enforce_file_format=False,
        )
    raw = buffer.getvalue()
    return deflated(raw) if uid.is_deflated else raw


def deflated(raw: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(raw) + deflater.flush()


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """One explicit little endian element with a 16-bit length."""
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def read(dataset: pydicom.Dataset, syntax: str = ExplicitVRLittleEndian) -> Instance:
    return instance_from_header(
        scan_header(encoded(dataset, syntax), syntax), sha256="0", location=LOCATION
    )


# --- against pydicom ----------------------------------------------------------------------


def pydicom_files() -> list[Path]:
    """The files inside the package; none is downloaded."""
    folder = Path(pydicom.__file__).parent / "data"
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py")


def shared_files(shared_data: Path) -> list[Path]:
    return sorted(path for path in (shared_data / "dicom").rglob("*") if path.is_file())


def keyword_of(tag: int) -> str:
    return pydicom.datadict.keyword_for_tag(tag)


def text_by_pydicom(dataset: pydicom.Dataset, tag: int) -> str:
    """pydicom's value in the form of ``Instance.attributes``."""
    value = dataset[tag].value if tag in dataset else None
    if value is None:
        return ""
    if isinstance(value, pydicom.multival.MultiValue):
        return "\\".join(original(item) for item in value)
    return original(value)


def original(value: Any) -> str:
    """The text as it was written, for numbers that keep it."""
    if isinstance(value, pydicom.valuerep.PersonName):
        return str(value).strip(" \0")
    return str(getattr(value, "original_string", value)).strip(" \0")


def numbers_by_pydicom(dataset: pydicom.Dataset, keyword: str, count: int) -> Any:
    value = dataset.get(keyword)
    if value is None or value == "":
        return None
    numbers = tuple(float(item) for item in value) if count > 1 else (float(value),)
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        return None
    return numbers if count > 1 else numbers[0]


def assert_same(instance: Instance, dataset: pydicom.Dataset, name: str) -> None:
    typed = {
        "sop_class_uid": "SOPClassUID",
        "sop_instance_uid": "SOPInstanceUID",
        "study_instance_uid": "StudyInstanceUID",
        "series_instance_uid": "SeriesInstanceUID",
        "accession_number": "AccessionNumber",
        "modality": "Modality",
        "frame_of_reference_uid": "FrameOfReferenceUID",
    }
    for ours, keyword in typed.items():
        tag = pydicom.datadict.tag_for_keyword(keyword)
        assert tag is not None
        assert getattr(instance, ours) == text_by_pydicom(dataset, tag), (name, ours)
    for ours in ("patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date"):
        tag = pydicom.datadict.tag_for_keyword(
            {"issuer_of_patient_id": "IssuerOfPatientID", "patient_id": "PatientID"}.get(
                ours, ours.title().replace("_", "")
            )
        )
        assert tag is not None
        # pydicom leaves out empty component groups at the end of a name.
        text = getattr(instance.patient, ours).rstrip("=")
        assert text == text_by_pydicom(dataset, tag), (name, ours)
    assert instance.rows == dataset.get("Rows"), name
    assert instance.columns == dataset.get("Columns"), name
    frames = dataset.get("NumberOfFrames")
    assert instance.number_of_frames == (None if frames in (None, "") else int(frames)), name
    number = dataset.get("InstanceNumber")
    assert instance.instance_number == (None if number in (None, "") else int(number)), name
    for ours, keyword, count in (
        ("image_position_patient", "ImagePositionPatient", 3),
        ("image_orientation_patient", "ImageOrientationPatient", 6),
        ("pixel_spacing", "PixelSpacing", 2),
        ("slice_thickness", "SliceThickness", 1),
    ):
        assert getattr(instance, ours) == numbers_by_pydicom(dataset, keyword, count), (name, ours)
    for tag, key in {**TEXT_ATTRIBUTES, **NUMBER_ATTRIBUTES}.items():
        assert instance.attributes.get(key, "") == text_by_pydicom(dataset, tag), (name, key)


def compare_with_pydicom(paths: list[Path]) -> int:
    """How many files were read by both, and agree."""
    compared = 0
    for path in paths:
        file = path.read_bytes()
        try:
            syntax, data_set = split_part10(file)
            scan = scan_header(data_set, syntax)
        except RejectedError:
            continue
        instance = instance_from_header(scan, sha256="0", location=LOCATION)
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=True)
            if not instance.warnings:
                assert_same(instance, dataset, path.name)
                compared += 1
    return compared


def test_every_field_of_pydicoms_own_files_reads_as_pydicom_reads_it() -> None:
    assert compare_with_pydicom(pydicom_files()) >= 60


def test_every_field_of_the_shared_files_reads_as_pydicom_reads_it(shared_data: Path) -> None:
    assert compare_with_pydicom(shared_files(shared_data)) >= 40


def test_one_slice_reads_the_same_in_every_transfer_syntax(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "ct-chest-one-slice-all-syntaxes"
    seen: set[str] = set()
    patients = set()
    for path in sorted(folder.glob("*.dcm")):
        syntax, data_set = split_part10(path.read_bytes())
        instance = instance_from_header(
            scan_header(data_set, syntax), sha256="0", location=LOCATION
        )
        seen.add(syntax)
        patients.add((instance.patient, instance.image_position_patient, instance.rows))
    assert len(seen) >= 15
    assert len(patients) == 1


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_data_set_written_by_pydicom_reads_back(syntax: str) -> None:
    dataset = minimal()
    dataset.Rows = 258
    dataset.PixelSpacing = [0.5, 0.25]
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.RescaleIntercept = "-1024"
    instance = read(dataset, syntax)
    assert_same(instance, dataset, syntax)
    assert instance.rows == 258
    assert instance.attributes["image_type"] == "ORIGINAL\\PRIMARY\\AXIAL"
    assert instance.warnings == ()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_sequences_of_undefined_length_are_jumped_over(syntax: str) -> None:
    inner = pydicom.Dataset()
    inner.PatientID = "SOMEBODY-ELSE"
    inner.ReferencedSOPInstanceUID = "1.2"
    inner.is_undefined_length_sequence_item = True
    outer = pydicom.Dataset()
    outer.ReferencedImageSequence = [inner]
    dataset = minimal()
    dataset.ReferencedStudySequence = [outer, inner]
    dataset["ReferencedStudySequence"].is_undefined_length = True
    outer["ReferencedImageSequence"].is_undefined_length = True
    assert read(dataset, syntax).patient.patient_id == "CANARY-1"


def test_an_un_element_of_undefined_length_is_read_as_implicit_little_endian() -> None:
    # PS3.5 6.2.2, note 2.
    item = struct.pack("<HHI", 0x0010, 0x0020, 4) + b"NOT!"
    private = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF)
    private += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + item
    private += struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    head, _, tail = encoded(minimal()).partition(b"\x10\x00\x10\x00PN")
    scan = scan_header(head + private + b"\x10\x00\x10\x00PN" + tail, ExplicitVRLittleEndian)
    assert scan.elements[0x00100020].strip() == b"CANARY-1"


def test_the_issuer_of_the_accession_number_is_read_from_its_sequence() -> None:
    issuer = pydicom.Dataset()
    issuer.LocalNamespaceEntityID = "HOSPITAL"
    dataset = minimal()
    dataset.AccessionNumber = "A1"
    dataset.IssuerOfAccessionNumberSequence = [issuer]
    assert read(dataset).issuer_of_accession_number == "HOSPITAL"
    assert read(dataset, ImplicitVRLittleEndian).issuer_of_accession_number == "HOSPITAL"


# --- texts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Buc^Jérôme"),
        ("ISO_IR 101", "Wałęsa^Łódź"),
        ("ISO_IR 144", "Люкceмбypг"),  # noqa: RUF001
        ("ISO_IR 126", "Διονυσιος"),
        ("ISO_IR 138", "שרון^דבורה"),
        ("ISO_IR 166", "สมชาย"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        (["ISO 2022 IR 100", "ISO 2022 IR 126"], "Jérôme=Διονυσιος"),
    ],
)
def test_names_in_every_character_set_read_as_written(character_set: Any, name: str) -> None:
    dataset = minimal()
    dataset.SpecificCharacterSet = character_set
    dataset.PatientName = name
    instance = read(dataset)
    assert instance.patient.patient_name == name
    assert instance.warnings == ()


def test_simplified_chinese_with_code_extensions_reads_as_in_the_standard() -> None:
    # PS3.5 K.2, spelled out because pydicom writes it without escape sequences.
    name = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab "
    dataset = minimal()
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 58"]
    raw = encoded(dataset).replace(
        element(0x00100010, b"PN", b"Canary^Yellow "), element(0x00100010, b"PN", name)
    )
    instance = instance_from_header(
        scan_header(raw, ExplicitVRLittleEndian), sha256="", location=LOCATION
    )
    assert instance.patient.patient_name == "Zhang^XiaoDong=张^小东"
    assert instance.warnings == ()


def test_an_unknown_character_set_is_a_warning_and_not_a_failure() -> None:
    raw = element(0x00080005, b"CS", b"ISO_IR 999 ") + encoded(minimal())
    instance = instance_from_header(
        scan_header(raw, ExplicitVRLittleEndian), sha256="", location=LOCATION
    )
    assert instance.patient.patient_name == "Canary^Yellow"
    assert any("(0008,0005)" in warning for warning in instance.warnings)


def test_characters_outside_the_character_set_are_replaced_and_told() -> None:
    raw = encoded(minimal()).replace(b"Canary^Yellow ", b"Canary^Y\xffllow ")
    instance = instance_from_header(
        scan_header(raw, ExplicitVRLittleEndian), sha256="", location=LOCATION
    )
    assert instance.patient.patient_name == "Canary^Y\ufffdllow"
    assert instance.warnings == ("(0010,0010) has characters outside its character set",)


# --- numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [b"NaN ", b"inf ", b"1e999 ", b"abc ", b"1\\2 ", b"1_0 ", b"0x1F"])
def test_a_decimal_that_is_no_finite_number_is_none_and_told(bad: bytes) -> None:
    raw = encoded(minimal()).replace(
        b"\x20\x00\x0d\x00UI", element(0x00180050, b"DS", bad) + b"\x20\x00\x0d\x00UI"
    )
    instance = instance_from_header(
        scan_header(raw, ExplicitVRLittleEndian), sha256="", location=LOCATION
    )
    assert instance.slice_thickness is None
    assert instance.warnings == ("(0018,0050) is not 1 finite number(s)",)


def test_a_rescale_slope_that_is_no_number_is_no_attribute() -> None:
    raw = encoded(minimal()) + element(0x00281053, b"DS", b"NaN ")
    instance = instance_from_header(
        scan_header(raw, ExplicitVRLittleEndian), sha256="", location=LOCATION
    )
    assert "rescale_slope" not in instance.attributes
    assert instance.warnings


def test_what_the_header_does_not_have_is_absent() -> None:
    instance = read(minimal())
    assert instance.attributes == {}
    assert instance.rows is None
    assert instance.pixel_spacing is None


# --- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    ("keyword", "tag"),
    [
        ("SOPClassUID", "(0008,0016)"),
        ("SOPInstanceUID", "(0008,0018)"),
        ("StudyInstanceUID", "(0020,000D)"),
        ("SeriesInstanceUID", "(0020,000E)"),
    ],
)
def test_a_missing_uid_is_named(keyword: str, tag: str, syntax: str) -> None:
    dataset = minimal()
    delattr(dataset, keyword)
    with pytest.raises(RejectedError, match=rf"{keyword} \{tag[:-1]}\) is missing"):
        scan_header(encoded(dataset, syntax), syntax)


@pytest.mark.parametrize(
    "uid", [b"", b"1..2", b".1.2", b"1.2.", b"1.2a.3", b"1/2", b"1." + b"2" * 64]
)
def test_a_malformed_uid_is_refused(uid: bytes) -> None:
    good = element(0x00080018, b"UI", b"1.2.3.4\0")
    raw = encoded(minimal()).replace(good, element(0x00080018, b"UI", uid + b"\0" * (len(uid) % 2)))
    with pytest.raises(RejectedError, match="SOPInstanceUID"):
        scan_header(raw, ExplicitVRLittleEndian)


def test_leading_zeros_in_a_uid_are_tolerated_and_told() -> None:
    raw = encoded(minimal()).replace(b"1.2.3.4\0", b"1.02.3.4")
    scan = scan_header(raw, ExplicitVRLittleEndian)
    assert scan.sop_instance_uid == "1.02.3.4"
    assert scan.warnings == ("SOPInstanceUID has a component with leading zeros",)


def test_a_second_patient_id_is_refused() -> None:
    twice = element(0x00100020, b"LO", b"CANARY-1") + element(0x00100020, b"LO", b"CANARY-2")
    raw = encoded(minimal()).replace(element(0x00100020, b"LO", b"CANARY-1"), twice)
    with pytest.raises(RejectedError, match=r"\(0010,0020\) is there twice"):
        scan_header(raw, ExplicitVRLittleEndian)


def test_file_meta_information_inside_the_data_set_is_refused() -> None:
    raw = element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0") + encoded(minimal())
    with pytest.raises(RejectedError, match=r"\(0002,0010\) at byte 0"):
        scan_header(raw, ExplicitVRLittleEndian)


def test_pixel_data_that_runs_past_the_end_is_refused() -> None:
    raw = encoded(minimal()) + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 1000) + bytes(998)
    with pytest.raises(RejectedError, match=r"\(7FE0,0010\).*past the end"):
        scan_header(raw, ExplicitVRLittleEndian)
    assert scan_header(raw + bytes(2), ExplicitVRLittleEndian).warnings == ()


def test_an_unknown_transfer_syntax_is_refused() -> None:
    with pytest.raises(RejectedError, match="transfer syntax"):
        scan_header(encoded(minimal()), "1.2.3.4")


# --- hostile ------------------------------------------------------------------------------


def assert_only_rejected(data_set: bytes, syntax: str) -> bool:
    """Whether it could be read. Any other error than RejectedError fails the test, and so
    does a message with a value in it."""
    try:
        scan = scan_header(data_set, syntax)
    except RejectedError as error:
        told, scan = str(error), None
    if scan is None:
        assert "CANARY" not in told.upper()
        return False
    instance = instance_from_header(scan, sha256="0", location=LOCATION)
    assert all("CANARY" not in warning.upper() for warning in instance.warnings)
    return True


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_data_set_cut_at_any_byte_is_read_or_refused(syntax: str) -> None:
    dataset = minimal()
    dataset.ReferencedStudySequence = [pydicom.Dataset()]
    dataset["ReferencedStudySequence"].is_undefined_length = True
    raw = encoded(dataset, syntax)
    read_whole = [cut for cut in range(len(raw) + 1) if assert_only_rejected(raw[:cut], syntax)]
    assert read_whole == [len(raw)]


def undefined_sequences(depth: int, syntax: str) -> bytes:
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    if syntax == ImplicitVRLittleEndian:
        sequence = struct.pack("<HHI", 0x0008, 0x1110, 0xFFFFFFFF)
    else:
        sequence = struct.pack(f"{order}HH2sHI", 0x0008, 0x1110, b"SQ", 0, 0xFFFFFFFF)
    return (sequence + struct.pack(f"{order}HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)) * depth


@pytest.mark.parametrize("syntax", SYNTAXES[:3])
def test_ten_thousand_nested_sequences_are_refused(syntax: str) -> None:
    with pytest.raises(RejectedError, match="nest more than 64 deep"):
        scan_header(undefined_sequences(10_000, syntax), syntax)


def test_ten_thousand_nested_sequences_inside_a_deflated_data_set_are_refused() -> None:
    raw = deflated(undefined_sequences(10_000, ExplicitVRLittleEndian))
    with pytest.raises(RejectedError, match="nest more than 64 deep"):
        scan_header(raw, DeflatedExplicitVRLittleEndian)


def test_a_sequence_without_end_is_refused() -> None:
    sequence = struct.pack("<HHI", 0x0008, 0x1110, 0xFFFFFFFF)
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 50_000
    with pytest.raises(RejectedError, match="ends within"):
        scan_header(sequence + items, ImplicitVRLittleEndian)


def test_millions_of_elements_are_refused_in_bounded_time() -> None:
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 3_000_000
    inside = struct.pack("<HHI", 0x0008, 0x1110, 0xFFFFFFFF) + items
    started = time.monotonic()
    with pytest.raises(RejectedError, match="more than 1000000 elements"):
        scan_header(inside, ImplicitVRLittleEndian)
    flat = struct.pack("<HHI", 0x0009, 0x1001, 0) * 3_000_000
    with pytest.raises(RejectedError, match="more than 1000000 elements"):
        scan_header(flat, ImplicitVRLittleEndian)
    assert time.monotonic() - started < 30


def test_a_value_of_four_gigabytes_is_refused() -> None:
    raw = encoded(minimal(), ImplicitVRLittleEndian)
    raw += struct.pack("<HHI", 0x0029, 0x1010, 0xFFFFFFFE)
    with pytest.raises(RejectedError, match=r"\(0029,1010\).*past the end"):
        scan_header(raw, ImplicitVRLittleEndian)


def test_a_wanted_value_of_a_megabyte_is_refused() -> None:
    raw = struct.pack("<HHI", 0x0008, 0x0016, 1 << 20) + b"1" * (1 << 20)
    with pytest.raises(RejectedError, match=r"\(0008,0016\).*longer than 4096"):
        scan_header(raw, ImplicitVRLittleEndian)


def test_a_deflate_bomb_is_refused() -> None:
    # 400 MB of zeros in 400 KB: one private element that never seems to end.
    bomb = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 400_000_000) + bytes(400_000_000)
    raw = deflated(bomb)
    assert len(raw) < 500_000
    with pytest.raises(RejectedError, match="does not end within"):
        scan_header(raw, DeflatedExplicitVRLittleEndian)


def test_the_pixels_of_a_deflated_data_set_are_not_inflated() -> None:
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 300_000_000) + bytes(300_000_000)
    raw = deflated(encoded(minimal()) + pixels)
    tracemalloc.start()
    scan_header(raw, DeflatedExplicitVRLittleEndian)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80_000_000


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_any_buffer_is_read_and_none_is_held(syntax: str) -> None:
    raw = encoded(minimal(), syntax)
    buffer = bytearray(raw)
    scan = scan_header(memoryview(buffer), syntax)
    buffer[:] = bytes(len(buffer))
    assert scan == scan_header(raw, syntax)
    assert all(type(value) is bytes for value in scan.elements.values())


def test_a_large_deflated_data_set_is_not_copied() -> None:
    pixels = random.Random(1).randbytes(20_000_000)
    head = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, len(pixels))
    raw = memoryview(deflated(encoded(minimal()) + head + pixels))
    tracemalloc.start()
    scan_header(raw, DeflatedExplicitVRLittleEndian)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_empty_data_set_is_refused(syntax: str) -> None:
    with pytest.raises(RejectedError):
        scan_header(b"", syntax)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(SYNTAXES))
@example(b"\x08\x00\x16\x00", ExplicitVRLittleEndian)
def test_random_bytes_are_read_or_refused(raw: bytes, syntax: str) -> None:
    assert_only_rejected(raw, syntax)


@functools.cache
def small_files() -> list[tuple[str, bytes]]:
    return list(_small_files())


def _small_files() -> Iterator[tuple[str, bytes]]:
    for name in ("CT_small.dcm", "MR_small_bigendian.dcm", "nested_priv_SQ.dcm", "rtplan.dcm"):
        for path in pydicom_files():
            if path.name == name:
                syntax, data_set = split_part10(path.read_bytes())
                yield syntax, data_set[:6000]
    for syntax in SYNTAXES:
        yield syntax, encoded(minimal(), syntax)


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_real_files_with_changed_bytes_are_read_or_refused(data: st.DataObject) -> None:
    syntax, original_bytes = data.draw(st.sampled_from(small_files()))
    raw = bytearray(original_bytes)
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(raw) - 1))
        change = data.draw(st.binary(min_size=1, max_size=8))
        raw[position : position + len(change)] = change
    assert_only_rejected(bytes(raw), data.draw(st.sampled_from([syntax, *SYNTAXES])))


# --- Part 10 ------------------------------------------------------------------------------


def received(data_set: bytes) -> ReceivedObject:
    return ReceivedObject(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid="1.2.3.4",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        data_set=data_set,
    )


def test_a_part_10_file_is_read_by_pydicom_and_gives_its_data_set_back() -> None:
    data_set = encoded(minimal())
    file = part10(received(data_set))
    dataset = pydicom.dcmread(io.BytesIO(file))
    assert dataset.file_meta.MediaStorageSOPInstanceUID == "1.2.3.4"
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert dataset.file_meta.ImplementationClassUID.is_valid
    meta_length = dataset.file_meta.FileMetaInformationGroupLength
    assert 132 + 12 + meta_length == len(file) - len(data_set)
    assert dataset.PatientID == "CANARY-1"
    assert split_part10(file) == (ExplicitVRLittleEndian, data_set)


def test_a_part_10_file_cut_at_any_byte_of_its_meta_information_is_refused() -> None:
    file = part10(received(encoded(minimal())))
    for cut in range(len(file) - len(encoded(minimal()))):
        try:
            syntax, data_set = split_part10(file[:cut])
        except RejectedError:
            continue
        assert syntax == ExplicitVRLittleEndian
        assert not assert_only_rejected(data_set, syntax)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_a_file_of_random_bytes_is_split_or_refused(tail: bytes) -> None:
    for file in (tail, bytes(128) + b"DICM" + tail, bytes(128) + b"DICM\x02\x00" + tail):
        try:
            split_part10(file)
        except RejectedError:
            continue
