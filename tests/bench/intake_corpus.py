"""What the intake benchmark sends: data sets made on the spot, whose UIDs can be changed in place.

Every UID of an instance holds one token of 12 digits. It stands in the bytes that are sent
wherever a UID does, so a sender makes an instance that nobody has seen before by writing a new
token over the old one, at places that were looked up once.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import imagecodecs
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from hub.formats.dicom.part10 import split_part10
from hub.formats.images.ct_phantom import chest_phantom

TOKEN = b"100000100000"
"""Stands for the round and the association in the bytes as they are made."""
_ROOT = "1.2.826.0.1.3680043.10.1"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Instances of one kind; all lie in one study for each token."""

    name: str
    sop_class_uid: str
    transfer_syntax_uid: str
    data_sets: Sequence[bytes] = field(repr=False)

    @property
    def mean_bytes(self) -> float:
        """Of a data set."""
        return sum(map(len, self.data_sets)) / len(self.data_sets)


def token_of(run: int, association: int) -> bytes:
    """A token of its own for each run and association; both below 99999."""
    return f"1{run:05}1{association:05}".encode()


def sop_instance_uid(token: bytes, index: int) -> str:
    """Of the instance at an index of a corpus."""
    return f"{_ROOT}.{token.decode()}.3.{10000 + index}"


def study_instance_uid(token: bytes) -> str:
    """Of the study in which all instances with a token lie."""
    return f"{_ROOT}.{token.decode()}.1"


def ct(name: str, count: int, pixels: int) -> Corpus:
    """Uncompressed CT images, ``pixels`` high and wide, 16 bits."""
    return _corpus(name, count, pixels, ExplicitVRLittleEndian, None)


def compressed(name: str, count: int) -> Corpus:
    """CT images of 512 x 512 in one of `ENCODERS`."""
    transfer_syntax_uid, encode = ENCODERS[name]
    return _corpus(name, count, 512, transfer_syntax_uid, encode)


def _rle(image: pydicom.Dataset) -> bytes:
    image.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return bytes(image.PixelData)


def _jpeg_ls(image: pydicom.Dataset) -> bytes:
    return encapsulate([imagecodecs.jpegls_encode(image.pixel_array)])


def _jpeg_2000(image: pydicom.Dataset) -> bytes:
    coded = imagecodecs.jpeg2k_encode(
        image.pixel_array, codecformat="j2k", bitspersample=image.BitsStored, reversible=True
    )
    return encapsulate([coded])


Encode = Callable[[pydicom.Dataset], bytes]
ENCODERS: Mapping[str, tuple[str, Encode]] = {
    "rle": (RLELossless, _rle),
    "jpegls": (JPEGLSLossless, _jpeg_ls),
    "j2k": (JPEG2000Lossless, _jpeg_2000),
}


def _corpus(
    name: str, count: int, pixels: int, transfer_syntax_uid: str, encode: Encode | None
) -> Corpus:
    phantom = chest_phantom(slices=count, rows=pixels, columns=pixels)
    data_sets, sop_class_uid = [], ""
    for index, file in enumerate(phantom.files):
        image = pydicom.dcmread(io.BytesIO(file))
        if encode is not None:
            image.PixelData = encode(image)
            image["PixelData"].VR = "OB"
            image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = pydicom.uid.UID(transfer_syntax_uid)
        data_sets.append(_with_token(image, index))
        sop_class_uid = str(image.SOPClassUID)
    return Corpus(name, sop_class_uid, transfer_syntax_uid, data_sets)


def _with_token(image: pydicom.Dataset, index: int) -> bytes:
    """The data set, with UIDs that hold `TOKEN`."""
    study = study_instance_uid(TOKEN)
    image.StudyInstanceUID = study
    image.SeriesInstanceUID = f"{study}.2"
    image.FrameOfReferenceUID = f"{study}.4"
    image.SOPInstanceUID = sop_instance_uid(TOKEN, index)
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    # A DICOM data set has an even length; so has each value in it.
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return bytes(split_part10(buffer.getvalue())[1])
