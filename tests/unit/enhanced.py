"""Classic CT slices as one Enhanced CT object (PS3.3 A.38), as a converter would write it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import pydicom
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian

from hub.domain.identity import derived_uid
from tests.unit.imaging import file_bytes

_PER_FRAME = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SliceLocation",
    "SpacingBetweenSlices",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
    "KVP",
)
"""What stands in functional groups, and not at the top level."""


def enhanced_ct(
    files: Sequence[bytes],
    *,
    order: Sequence[int] | None = None,
    shared: bool = True,
    compress: tuple[str, Callable[[Any], bytes]] | None = None,
    **changes: Any,
) -> bytes:
    """One object of all slices.

    Args:
        order: of the frames; by default that of the files.
        shared: orientation, measures and rescale stand once for all frames, not in each.
        compress: a transfer syntax and what encodes a plane in it.
        changes: of top-level attributes; ``None`` removes one.
    """
    slices = [pydicom.dcmread(io.BytesIO(file)) for file in files]
    made = Dataset()
    for element in slices[0]:
        if element.keyword not in (*_PER_FRAME, "PixelData"):
            made.add(element)
    made.SOPClassUID = EnhancedCTImageStorage
    made.SOPInstanceUID = derived_uid("enhanced", slices[0].SOPInstanceUID)
    made.ImageType = ["DERIVED", "PRIMARY", "AXIAL", "NONE"]
    made.NumberOfFrames = len(slices)
    made.PresentationLUTShape = "IDENTITY"
    made.InstanceNumber = 1
    constant = _constant(slices[0])
    made.SharedFunctionalGroupsSequence = [constant if shared else Dataset()]
    chosen = [slices[index] for index in (order if order is not None else range(len(slices)))]
    made.PerFrameFunctionalGroupsSequence = [
        _frame(one, number, Dataset() if shared else constant)
        for number, one in enumerate(chosen, start=1)
    ]
    syntax = ExplicitVRLittleEndian
    if compress is None:
        made.PixelData = b"".join(one.PixelData for one in chosen)
        made["PixelData"].VR = "OW"
    else:
        syntax, encode = pydicom.uid.UID(compress[0]), compress[1]
        made.PixelData = encapsulate([encode(one.pixel_array) for one in chosen])
        made["PixelData"].VR = "OB"
        made["PixelData"].is_undefined_length = True
    for keyword, value in changes.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return file_bytes(made, syntax)


def _constant(one: Dataset) -> Dataset:
    groups = Dataset()
    groups.PixelMeasuresSequence = [_copy(one, "PixelSpacing", "SliceThickness")]
    groups.PlaneOrientationSequence = [_copy(one, "ImageOrientationPatient")]
    groups.PixelValueTransformationSequence = [
        _copy(one, "RescaleIntercept", "RescaleSlope", "RescaleType")
    ]
    return groups


def _frame(one: Dataset, number: int, constant: Dataset) -> Dataset:
    groups = Dataset()
    content = Dataset()
    content.StackID, content.InStackPositionNumber = "1", number
    content.DimensionIndexValues = [1, number]
    groups.FrameContentSequence = [content]
    groups.PlanePositionSequence = [_copy(one, "ImagePositionPatient")]
    groups.update(constant)
    return groups


def _copy(one: Dataset, *keywords: str) -> Dataset:
    item = Dataset()
    for keyword in keywords:
        if keyword in one:
            item.add(one[keyword])
    return item
