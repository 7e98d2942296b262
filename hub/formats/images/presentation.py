"""How an image wants to be shown: modality LUT, VOI LUT or window, polarity (PS3.3 C.11).

The way of a pixel from its stored value to its brightness: modality LUT or rescale (C.11.1),
VOI LUT or window (C.11.2), presentation LUT shape (C.11.6). Here it ends between 0, black, and
1, white, whatever the polarity of the stored values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.errors import RejectedError, UnsuitableError
from hub.formats.dicom.element_scan import Elements
from hub.formats.dicom.functional_groups import FRAME_VOI_LUT, macro_of_frame
from hub.formats.images.image_header import ImageHeader
from hub.formats.images.lookup_table import LookupTable, lookup_table

_MODALITY_LUT, _VOI_LUT = 0x00283000, 0x00283010
_DESCRIPTOR, _DATA = 0x00283002, 0x00283006
_CENTRE, _WIDTH, _FUNCTION = 0x00281050, 0x00281051, 0x00281056
_SHAPE = 0x20500020
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True, slots=True)
class DisplayWindow:
    """VOI window (PS3.3 C.11.2.1.2), on values after rescale."""

    centre: float
    width: float
    function: str
    """``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``."""

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """0 ... 1"""
        centre, width = self.centre, self.width
        if self.function == "SIGMOID":
            exponent = np.clip(-4.0 * (values - centre) / width, -80.0, 80.0)
            return np.asarray(1.0 / (1.0 + np.exp(exponent)), np.float32)
        if self.function == "LINEAR":
            centre, width = centre - 0.5, width - 1.0
            if width == 0:
                return (values > centre).astype(np.float32)
        return np.asarray(np.clip((values - centre) / width + 0.5, 0.0, 1.0), np.float32)


@dataclass(frozen=True, slots=True)
class Presentation:
    """What the header says; the first where it offers several views."""

    photometric_interpretation: str
    shape: str
    """PresentationLUTShape (2050,0020) or empty."""
    modality_lut: LookupTable | None
    voi_lut: LookupTable | None
    window: DisplayWindow | None

    @property
    def is_inverted(self) -> bool:
        """Does the smallest value mean white?

        Raises:
            UnsuitableError: not grey-scale, or its two statements contradict each other.
        """
        found = self.photometric_interpretation
        if found not in ("MONOCHROME1", "MONOCHROME2"):
            raise UnsuitableError((f"the image is {found}, not grey-scale",))
        expected = "INVERSE" if found == "MONOCHROME1" else "IDENTITY"
        if self.shape and self.shape != expected:  # PS3.3 C.8.11.3.1.2
            raise UnsuitableError(
                (f"PresentationLUTShape {self.shape} contradicts {found}: is white high or low?",)
            )
        return found == "MONOCHROME1"


def presentation_of(elements: Elements, header: ImageHeader) -> Presentation:
    """Read it for one frame.

    Raises:
        RejectedError: a window or table that contradicts itself.
    """
    signed = bool(header.pixel_representation)
    modality = elements.first_item(_MODALITY_LUT)
    of_frame = macro_of_frame(elements, header.frame_number, FRAME_VOI_LUT)
    voi = elements.first_item(_VOI_LUT)
    modality_lut = None if modality is None else _table(modality, signed=signed)
    after = signed if modality_lut is None else False
    after = after or (header.rescale_intercept or 0.0) < 0
    return Presentation(
        photometric_interpretation=header.photometric_interpretation,
        shape=elements.text(_SHAPE),
        modality_lut=modality_lut,
        voi_lut=None if voi is None else _table(voi, signed=after),
        window=_window(elements if of_frame is None else of_frame),
    )


def displayed(
    stored: NDArray[Any], presentation: Presentation, slope: float, intercept: float
) -> NDArray[np.float32]:
    """Stored values to 0, black, ... 1, white.

    Args:
        stored: (row, column)
        slope: of the rescale, 1 where there is none.
        intercept: of the rescale, 0 where there is none.

    Raises:
        UnsuitableError: the header has neither VOI LUT nor window, or contradicts itself.
    """
    inverted = presentation.is_inverted
    if presentation.modality_lut is not None:
        values = presentation.modality_lut.of(stored).astype(np.float32)
    else:
        values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if presentation.voi_lut is not None:
        table = presentation.voi_lut
        shown = table.of(np.rint(values)).astype(np.float32) / np.float32((1 << table.bits) - 1)
    elif presentation.window is not None:
        shown = presentation.window(values)
    else:
        raise UnsuitableError(("the image has neither a VOI LUT nor a window",))
    return np.float32(1.0) - shown if inverted else shown


def _table(item: Elements, *, signed: bool) -> LookupTable:
    return lookup_table(item, _DESCRIPTOR, _DATA, signed=signed)


def _window(elements: Elements) -> DisplayWindow | None:
    try:
        centre, width = elements.decimal(_CENTRE), elements.decimal(_WIDTH)
    except ValueError:
        raise RejectedError("WindowCenter or WindowWidth is not a number") from None
    if centre is None or width is None:
        return None
    function = elements.text(_FUNCTION).split("\\")[0] or "LINEAR"
    narrowest = 1.0 if function == "LINEAR" else 0.0
    if not (math.isfinite(centre) and math.isfinite(width)) or width < narrowest or width <= 0:
        raise RejectedError(f"a window of width {width:g}")
    if function not in _FUNCTIONS:
        raise UnsuitableError((f"VOILUTFunction {function}, which is not known",))
    return DisplayWindow(centre, width, function)
