"""One image file to its header and its still encoded pixels, by a flat scan of the top level.

Only little-endian elements up to Pixel Data are looked at (deflated and big-endian files
included), nothing is allocated that the file does not hold, and nothing recurses: a hostile
header costs a message, not memory.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from hub.errors import RejectedError, UnsuitableError

MAXIMUM_PIXELS = 100_000_000
"""Largest rows x columns that is believed; a digital mammogram has 30 million."""
MAXIMUM_INFLATED = 1 << 30
"""Most bytes that a deflated data set may become (PS3.5 A.5)."""

_IMPLICIT = "1.2.840.10008.1.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_PIXEL_DATA = 0x7FE00010


class _HeaderReaders:
    """Compiled readers of element headers in one byte order."""

    def __init__(self, order: str) -> None:
        self.implicit = struct.Struct(f"{order}HHI").unpack_from
        self.explicit = struct.Struct(f"{order}HH2sH").unpack_from
        self.length = struct.Struct(f"{order}I").unpack_from


_HEADERS = {order: _HeaderReaders(order) for order in "<>"}
_OTHER_PIXELS = {0x7FE00008: "floating-point", 0x7FE00009: "floating-point"}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What decoding and geometry need of one image's header; ``None`` where it is absent.

    Rescale values are those of PS3.3 C.11.1; positions and spacings are mm (PS3.3 C.7.6.2).
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    rows: int
    columns: int
    samples_per_pixel: int
    photometric_interpretation: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    """0 unsigned, 1 two's complement."""
    number_of_frames: int
    rescale_slope: float | None
    rescale_intercept: float | None
    rescale_type: str
    frame_of_reference_uid: str
    image_position_patient: tuple[float, ...] | None
    image_orientation_patient: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    slice_thickness: float | None

    @property
    def bytes_per_frame(self) -> int:
        return self.rows * self.columns * (self.bits_allocated // 8)

    @property
    def big_endian(self) -> bool:
        return self.transfer_syntax_uid == _BIG_ENDIAN


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image as its file holds it."""

    header: ImageHeader
    pixels: memoryview
    """Native pixels, or one compressed frame without its fragment headers."""
    compressed: bool


def read_image(data: bytes) -> EncodedImage:
    """Read a Part 10 file with one single-frame grey-scale image, without decoding it.

    Raises:
        UnsuitableError: an image of a kind that models are not fed with (colour, multi-frame).
        RejectedError: not DICOM, truncated, inconsistent or absurd.
    """
    try:
        elements = _data_set(data)
        header = _header(elements)
    except (struct.error, ValueError, IndexError, zlib.error) as error:
        raise RejectedError(f"the image header cannot be read ({type(error).__name__})") from None
    _check_supported(header)
    pixels, compressed = _pixels(elements, header)
    return EncodedImage(header, pixels, compressed)


# --- the scan ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Elements:
    """Where the values of the top level are: tag -> (offset, length)."""

    data: bytes
    order: str
    """``<`` or ``>``."""
    transfer_syntax_uid: str
    places: dict[int, tuple[int, int]]

    def text(self, tag: int) -> str:
        offset, length = self.places.get(tag, (0, 0))
        return self.data[offset : offset + length].decode("latin-1").strip("\0 ")

    def number(self, tag: int) -> int | None:
        """The first value of an element of VR US."""
        offset, length = self.places.get(tag, (0, 0))
        if length < 2:  # noqa: PLR2004 - the size of one US
            return None
        return int(struct.unpack_from(f"{self.order}H", self.data, offset)[0])

    def decimals(self, tag: int) -> tuple[float, ...] | None:
        """The values of an element of VR DS or IS; absent or empty gives None."""
        text = self.text(tag)
        return tuple(float(part) for part in text.split("\\")) if text else None

    def decimal(self, tag: int) -> float | None:
        values = self.decimals(tag)
        return values[0] if values else None


def _data_set(data: bytes) -> _Elements:
    if data[128:132] != b"DICM":
        raise RejectedError("not a DICOM Part 10 file")
    meta, at = _scan(data, 132, order="<", explicit=True, group=0x0002)
    syntax = _Elements(data, "<", "", meta).text(0x00020010)
    if not syntax:
        raise RejectedError("the file names no transfer syntax")
    if syntax == _DEFLATED:
        data, at = _inflated(data[at:]), 0
    order = ">" if syntax == _BIG_ENDIAN else "<"
    places, _ = _scan(data, at, order=order, explicit=syntax != _IMPLICIT, group=None)
    return _Elements(data, order, syntax, places)


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, MAXIMUM_INFLATED)
    if inflater.unconsumed_tail:
        raise RejectedError("the deflated data set grows beyond every reasonable size")
    return inflated


def _scan(
    data: bytes, at: int, *, order: str, explicit: bool, group: int | None
) -> tuple[dict[int, tuple[int, int]], int]:
    """Places of the elements from ``at`` up to Pixel Data, or of one group only."""
    places: dict[int, tuple[int, int]] = {}
    end = len(data)
    while at < end:
        tag, vr, length, value = _element(data, at, order, explicit=explicit)
        if group is not None and tag >> 16 != group:
            break
        if length != _UNDEFINED:
            places[tag] = (value, length)
            at = value + length
        elif tag == _PIXEL_DATA:
            places[tag] = (value, _UNDEFINED)
        else:
            at = _end_of_sequence(data, value, order, explicit=explicit and vr != b"UN")
        if tag == _PIXEL_DATA:
            break
        if at > end:
            raise RejectedError("the file ends in the middle of an element")
    return places, at


def _element(data: bytes, at: int, order: str, *, explicit: bool) -> tuple[int, bytes, int, int]:
    """Tag, VR, length and offset of the value of the element at an offset (PS3.5 7.1)."""
    if not explicit:
        group, element, length = _HEADERS[order].implicit(data, at)
        return group << 16 | element, b"", length, at + 8
    group, element, vr, length = _HEADERS[order].explicit(data, at)
    if vr not in _LONG_VRS:
        return group << 16 | element, vr, length, at + 8
    (length,) = _HEADERS[order].length(data, at + 8)
    return group << 16 | element, vr, length, at + 12


def _end_of_sequence(data: bytes, at: int, order: str, *, explicit: bool) -> int:
    """The offset after a sequence of undefined length, whatever is nested in it."""
    encodings = [explicit]
    """One entry for each open sequence: an UN of undefined length holds implicit VR
    (PS3.5 6.2.2)."""
    while encodings:
        group, element, length = struct.unpack_from(f"{order}HHI", data, at)
        tag = group << 16 | element
        if tag == _ITEM:
            at += 8 if length == _UNDEFINED else 8 + length
        elif tag == _ITEM_END:
            at += 8
        elif tag == _SEQUENCE_END:
            at += 8
            encodings.pop()
        else:
            tag, vr, length, at = _element(data, at, order, explicit=encodings[-1])
            if length == _UNDEFINED:
                encodings.append(encodings[-1] and vr != b"UN")
            else:
                at += length
    return at


# --- the header --------------------------------------------------------------------------


def _header(elements: _Elements) -> ImageHeader:
    text, number = elements.text, elements.number
    return ImageHeader(
        sop_class_uid=text(0x00080016),
        sop_instance_uid=text(0x00080018),
        study_instance_uid=text(0x0020000D),
        series_instance_uid=text(0x0020000E),
        transfer_syntax_uid=elements.transfer_syntax_uid,
        modality=text(0x00080060),
        rows=number(0x00280010) or 0,
        columns=number(0x00280011) or 0,
        samples_per_pixel=number(0x00280002) or 0,
        photometric_interpretation=text(0x00280004),
        bits_allocated=number(0x00280100) or 0,
        bits_stored=number(0x00280101) or 0,
        high_bit=number(0x00280102) or 0,
        pixel_representation=_required(number(0x00280103), "PixelRepresentation"),
        number_of_frames=int(text(0x00280008) or 1),
        rescale_slope=elements.decimal(0x00281053),
        rescale_intercept=elements.decimal(0x00281052),
        rescale_type=text(0x00281054),
        frame_of_reference_uid=text(0x00200052),
        image_position_patient=elements.decimals(0x00200032),
        image_orientation_patient=elements.decimals(0x00200037),
        pixel_spacing=elements.decimals(0x00280030),
        slice_thickness=elements.decimal(0x00180050),
    )


def _required(value: int | None, keyword: str) -> int:
    if value is None:
        raise RejectedError(f"the image has no {keyword}")
    return value


def _check_supported(header: ImageHeader) -> None:
    if not (header.sop_instance_uid and header.series_instance_uid and header.study_instance_uid):
        raise RejectedError("the image lacks its SOP Instance, Series or Study Instance UID")
    if not header.rows or not header.columns:
        raise RejectedError("the image has no Rows or Columns")
    if header.rows * header.columns > MAXIMUM_PIXELS:
        raise RejectedError(f"{header.rows} x {header.columns} pixels: larger than any real image")
    if header.number_of_frames != 1:
        raise UnsuitableError(
            (f"a multi-frame image ({header.number_of_frames} frames); single frames are read",)
        )
    if header.samples_per_pixel != 1 or not header.photometric_interpretation.startswith("MONO"):
        colour = header.photometric_interpretation or "no photometric interpretation"
        raise UnsuitableError((f"not a grey-scale image ({colour})",))
    if header.bits_allocated not in (8, 16):
        raise UnsuitableError((f"pixels of {header.bits_allocated} bits; 8 and 16 are read",))
    stored_fits = 0 < header.bits_stored <= header.high_bit + 1 <= header.bits_allocated
    if not stored_fits or header.pixel_representation not in (0, 1):
        raise RejectedError("BitsAllocated, BitsStored, HighBit contradict each other (PS3.5 8.1)")


# --- the pixels --------------------------------------------------------------------------


def _pixels(elements: _Elements, header: ImageHeader) -> tuple[memoryview, bool]:
    if _PIXEL_DATA not in elements.places:
        other = [name for tag, name in _OTHER_PIXELS.items() if tag in elements.places]
        if other:
            raise UnsuitableError((f"{other[0]} pixels",))
        raise RejectedError("the file has no pixel data")
    offset, length = elements.places[_PIXEL_DATA]
    if length == _UNDEFINED:
        return _single_frame(elements.data, offset), True
    if length < header.bytes_per_frame or offset + length > len(elements.data):
        raise RejectedError(
            f"{min(length, len(elements.data) - offset)} bytes of pixel data where "
            f"{header.bytes_per_frame} are needed"
        )
    return memoryview(elements.data)[offset : offset + header.bytes_per_frame], False


def _single_frame(data: bytes, at: int) -> memoryview:
    """All fragments after the Basic Offset Table, joined (PS3.5 A.4)."""
    fragments: list[memoryview] = []
    view = memoryview(data)
    while True:
        if at + 8 > len(data):
            raise RejectedError("the compressed pixel data ends in the middle of a fragment")
        group, element, length = struct.unpack_from("<HHI", data, at)
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            break
        if tag != _ITEM or at + 8 + length > len(data):
            raise RejectedError("the compressed pixel data is broken between two fragments")
        fragments.append(view[at + 8 : at + 8 + length])
        at += 8 + length
    frame = fragments[1:]
    if not frame:
        raise RejectedError("the compressed pixel data holds no frame")
    return frame[0] if len(frame) == 1 else memoryview(b"".join(frame))
