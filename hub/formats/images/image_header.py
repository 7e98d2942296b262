"""The header of one image or of one frame: what decoding and geometry need of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hub.errors import RejectedError, UnsuitableError
from hub.formats.dicom.element_scan import BIG_ENDIAN, Elements

MAXIMUM_PIXELS = 100_000_000
"""Largest rows x columns that is believed; a digital mammogram has 30 million."""
MAXIMUM_FRAMES = 1 << 16
"""Most frames that are believed; a perfusion CT has 10,000."""
MAXIMUM_VOXELS = 1 << 31
"""Most voxels of one volume, checked before anything is allocated: 8000 slices of 512 x 512."""
NATIVE_SYNTAXES = frozenset(
    f"1.2.840.10008.1.2{suffix}" for suffix in ("", ".1", ".1.98", ".1.99", ".2")
)
"""Transfer syntaxes whose pixels are not compressed (PS3.5 A.1, A.2, A.3, A.5, A.7)."""
PLAIN_SYNTAXES = NATIVE_SYNTAXES - {"1.2.840.10008.1.2.1.99"}
"""Transfer syntaxes whose files are as long as their pixels at least."""
COLOURS = frozenset(
    ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR"),
)
"""Photometric interpretations (PS3.3 C.7.6.3.1.2) that are read where colour is wanted."""
PALETTE = "PALETTE COLOR"
SHARED_GROUPS, PER_FRAME_GROUPS = 0x52009229, 0x52009230
"""Tags of the functional groups sequences."""
_SUBSAMPLED = "YBR_FULL_422"
_GREY_BITS, _COLOUR_BITS = (8, 16), (8,)
_COLOUR_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What decoding and geometry need of one image's header; ``None`` where it is absent.

    Of a multi-frame object each frame has a header of its own. Rescale values are those of
    PS3.3 C.11.1; positions and spacings are mm (PS3.3 C.7.6.2).
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
    planar_configuration: int
    """Of native colour: 0 pixel after pixel, 1 plane after plane."""
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    """0 unsigned, 1 two's complement."""
    number_of_frames: int
    is_multi_frame: bool
    """Several frames, or one that functional groups describe."""
    rescale_slope: float | None
    rescale_intercept: float | None
    rescale_type: str
    frame_of_reference_uid: str
    image_position_patient: tuple[float, ...] | None
    image_orientation_patient: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    slice_thickness: float | None
    has_contrast: bool
    """A contrast agent is named, as text or as a code."""
    frame_number: int = 1
    """1-based."""

    @property
    def bytes_per_frame(self) -> int:
        """Of native pixels."""
        pixels = self.rows * self.columns
        if self.photometric_interpretation == _SUBSAMPLED:
            return pixels * 2  # two chrominance samples for two pixels (PS3.3 C.7.6.3.1.2)
        return pixels * self.samples_per_pixel * (self.bits_allocated // 8)

    @property
    def is_grey(self) -> bool:
        return self.samples_per_pixel == 1 and self.photometric_interpretation.startswith("MONO")

    @property
    def big_endian(self) -> bool:
        return self.transfer_syntax_uid == BIG_ENDIAN


def header_of(elements: Elements) -> ImageHeader:
    """The header as it stands at the top level, that of frame 1.

    Raises:
        RejectedError: an attribute that decoding needs is absent.
        ValueError, struct.error: a number is none.
    """
    text, number = elements.text, elements.number
    named = elements.integer(0x00280008)
    frames = 1 if named is None else named
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
        planar_configuration=number(0x00280006) or 0,
        bits_allocated=number(0x00280100) or 0,
        bits_stored=number(0x00280101) or 0,
        high_bit=number(0x00280102) or 0,
        pixel_representation=_required(number(0x00280103), "PixelRepresentation"),
        number_of_frames=frames,
        is_multi_frame=frames != 1 or SHARED_GROUPS in elements or PER_FRAME_GROUPS in elements,
        rescale_slope=elements.decimal(0x00281053),
        rescale_intercept=elements.decimal(0x00281052),
        rescale_type=text(0x00281054),
        frame_of_reference_uid=text(0x00200052),
        image_position_patient=elements.decimals(0x00200032),
        image_orientation_patient=elements.decimals(0x00200037),
        pixel_spacing=elements.decimals(0x00280030),
        slice_thickness=elements.decimal(0x00180050),
        has_contrast=bool(text(0x00180010)) or elements.first_item(0x00180012) is not None,
    )


def _required(value: int | None, keyword: str) -> int:
    if value is None:
        raise RejectedError(f"the image has no {keyword}")
    return value


def check_supported(header: ImageHeader, *, with_colour: bool = False) -> None:
    """Refuse what is not read, before anything is allocated.

    Raises:
        UnsuitableError: an image of a kind that the model is not fed with.
        RejectedError: absurd or contradictory.
    """
    if not (header.sop_instance_uid and header.series_instance_uid and header.study_instance_uid):
        raise RejectedError("the image lacks its SOP Instance, Series or Study Instance UID")
    if not header.rows or not header.columns:
        raise RejectedError("the image has no Rows or Columns")
    if header.rows * header.columns > MAXIMUM_PIXELS:
        raise RejectedError(f"{header.rows} x {header.columns} pixels: larger than any real image")
    if not 1 <= header.number_of_frames <= MAXIMUM_FRAMES:
        raise RejectedError(f"{header.number_of_frames} frames: no real object has that many")
    _check_samples(header, with_colour=with_colour)
    stored_fits = 0 < header.bits_stored <= header.high_bit + 1 <= header.bits_allocated
    if not stored_fits or header.pixel_representation not in (0, 1):
        raise RejectedError("BitsAllocated, BitsStored, HighBit contradict each other (PS3.5 8.1)")


def _check_samples(header: ImageHeader, *, with_colour: bool) -> None:
    colour = header.photometric_interpretation or "no photometric interpretation"
    if not header.is_grey:
        if not with_colour or header.photometric_interpretation not in COLOURS:
            raise UnsuitableError((f"not a grey-scale image ({colour})",))
        samples = 1 if header.photometric_interpretation == PALETTE else _COLOUR_SAMPLES
        if header.samples_per_pixel != samples:
            raise RejectedError(f"{header.samples_per_pixel} samples per pixel in {colour}")
    multi_sample = header.samples_per_pixel > 1
    if header.bits_allocated not in (_COLOUR_BITS if multi_sample else _GREY_BITS):
        read = "8 are read in colour" if multi_sample else "8 and 16 are read"
        raise UnsuitableError((f"pixels of {header.bits_allocated} bits; {read}",))


def finite(values: tuple[float, ...]) -> bool:
    """None of them is NaN or infinite."""
    return all(map(math.isfinite, values))
