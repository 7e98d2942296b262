"""Headers that are alike are read faster, and never otherwise than each alone."""

from __future__ import annotations

import io

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.domain.study import Instance, Location
from hub.errors import RejectedError
from hub.formats.dicom.elements import EXPLICIT, Walker
from hub.formats.dicom.header import WANTED, HeaderScan, instance_from_header, scan_header
from hub.formats.dicom.header_outline import HeaderOutline
from hub.formats.dicom.part10 import split_part10
from hub.formats.images.ct_phantom import chest_phantom

_LOCATION = Location("", 0, 0)


def slices(count: int = 6) -> list[tuple[str, bytes]]:
    """(transfer syntax, data set) of a phantom's slices."""
    return [split_part10(file) for file in chest_phantom(slices=count, rows=64, columns=64).files]


def changed(data_set: bytes, syntax: str, keyword: str, value: object) -> bytes:
    """The same with another value; None: without the element."""
    implicit = syntax == "1.2.840.10008.1.2"
    read = pydicom.dcmread(io.BytesIO(data_set), force=True)
    if value is None:
        del read[keyword]
    else:
        setattr(read, keyword, value)
    out = io.BytesIO()
    read.save_as(out, implicit_vr=implicit, little_endian=True)
    return out.getvalue()


def alone(syntax: str, data_set: bytes) -> HeaderScan | str:
    try:
        return scan_header(data_set, syntax)
    except RejectedError as error:
        return str(error)


def after_others(syntax: str, data_set: bytes, outline: HeaderOutline) -> HeaderScan | str:
    try:
        return scan_header(memoryview(data_set), syntax, outline)
    except RejectedError as error:
        return str(error)


def instance(scan: HeaderScan, like: tuple[HeaderScan, Instance] | None = None) -> Instance:
    return instance_from_header(scan, sha256="", location=_LOCATION, like=like)


_CHANGES = st.sampled_from(
    [
        ("SeriesDescription", "Another"),
        ("SeriesDescription", "Gr\u00f6\u00dfe"),
        ("SpecificCharacterSet", "ISO_IR 100"),
        ("SliceThickness", None),
        ("ImageComments", "an element that the others have not"),
        ("ContentTime", "1200"),
        ("ContentTime", None),
        ("BitsStored", 16),
        ("PatientID", "SOMEBODY"),
        ("PixelSpacing", ["0.5", "0.25"]),
        ("RescaleSlope", None),
        ("StudyInstanceUID", None),
        ("Rows", 16),
        ("AccessionNumber", "A1"),
    ]
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.none() | _CHANGES), min_size=3, max_size=12),
    st.integers(0, 700),
)
def test_what_is_read_does_not_depend_on_what_came_before(
    course: list[tuple[int, tuple[str, object] | None]], cut: int
) -> None:
    found, outline = slices(), HeaderOutline()
    before: tuple[HeaderScan, Instance] | None = None
    objects = []
    for index, change in course:
        syntax, data_set = found[index]
        objects.append((syntax, changed(data_set, syntax, *change) if change else data_set))
    objects.append((found[0][0], found[0][1][:cut]))
    for syntax, data_set in objects:
        scan = after_others(syntax, data_set, outline)
        assert scan == alone(syntax, data_set)
        if isinstance(scan, HeaderScan):
            assert list(scan.elements) == sorted(scan.elements)
            made = instance(scan, before)
            assert made == instance(scan)
            before = scan, made


def test_what_is_the_same_again_is_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[int] = []
    walk = Walker.top_level

    def counted(walker: Walker, *args: object, **more: object) -> dict[int, bytes]:
        begun = walker.position
        found = walk(walker, *args, **more)  # type: ignore[arg-type]
        walked.append(walker.position - begun)
        return found

    monkeypatch.setattr(Walker, "top_level", counted)
    outline = HeaderOutline()
    lengths = []
    for _, data_set in slices(12):
        walked.clear()
        assert outline.walk(data_set, EXPLICIT, WANTED, [])
        lengths.append(sum(walked))
    assert max(lengths[-3:]) < lengths[0] / 4


def test_a_text_that_cannot_be_read_is_told_of_each_object() -> None:
    syntax, data_set = slices(1)[0]
    broken = changed(data_set, syntax, "InstanceNumber", "1").replace(
        b"Chest phantom,", b"Chest \xff\xfe\xfd\xfc,XXX", 1
    )
    first = instance(scan_header(broken, syntax))
    assert first.warnings
    scan = scan_header(broken, syntax)
    assert instance(scan, (scan, first)) == first


@pytest.mark.parametrize(
    ("keyword", "first", "second"),
    [
        ("SpecificCharacterSet", "ISO_IR 100", "ISO_IR 101"),
        ("ContentTime", "1200", ""),
        ("BitsStored", 16, 12),
        ("PatientID", "A", "B"),
    ],
)
def test_what_is_decoded_does_not_depend_on_the_object_before(
    keyword: str, first: object, second: object
) -> None:
    syntax, data_set = slices(1)[0]
    latin = changed(data_set, syntax, "SpecificCharacterSet", "ISO_IR 100")
    named = changed(latin, syntax, "SeriesDescription", "\u00bc")
    one = scan_header(changed(named, syntax, keyword, first), syntax)
    if keyword == "SpecificCharacterSet":  # pydicom would encode the texts anew
        other = scan_header(named.replace(b"ISO_IR 100", b"ISO_IR 101"), syntax)
    else:
        other = scan_header(changed(named, syntax, keyword, second), syntax)
    assert instance(other, (one, instance(one))) == instance(other) != instance(one)
