"""Encoded pixels to stored values (PS3.5 section 8): native, RLE, JPEG, JPEG-LS, JPEG 2000.

imagecodecs releases the interpreter lock while it decodes, so that threads help. The size
that a compressed stream itself claims is compared with the header before any codec runs:
the codec allocates by it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from hub.errors import RejectedError, UnsuitableError
from hub.formats.images.image_header import NATIVE_SYNTAXES, ImageHeader
from hub.formats.images.pixel_data import EncodedImage

StoredValues = NDArray[np.int16] | NDArray[np.uint16] | NDArray[np.int8] | NDArray[np.uint8]

_RLE = "1.2.840.10008.1.2.5"
_JPEG = {
    "1.2.840.10008.1.2.4.50": "JPEG Baseline",
    "1.2.840.10008.1.2.4.51": "JPEG Extended",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless, First-Order Prediction",
}
_JPEG_LS = {"1.2.840.10008.1.2.4.80": "JPEG-LS Lossless", "1.2.840.10008.1.2.4.81": "JPEG-LS"}
_JPEG_2000 = {
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "High-Throughput JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.202": "High-Throughput JPEG 2000 with RPCL, Lossless",
    "1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000",
}
_REFUSED = {
    "1.2.840.10008.1.2.4.53": "progressive JPEG (retired, Process 6 & 8)",
    "1.2.840.10008.1.2.4.55": "progressive JPEG (retired, Process 10 & 12)",
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}
_SEQUENTIAL_FRAMES = {0xC0, 0xC1, 0xC3, 0xF7}
"""SOF markers that are read: baseline, extended sequential, lossless (T.81), JPEG-LS (T.87)."""
_TABLES_NOT_FRAMES = {0xC4, 0xC8, 0xCC}
_DECODING_FAULTS = (RuntimeError, ValueError, TypeError, OSError, struct.error)
"""What imagecodecs raises on broken streams; each codec's own error is a RuntimeError."""


def stored_dtype(header: ImageHeader) -> np.dtype[Any]:
    """The type of an image's stored values: int16, uint16, int8 or uint8."""
    kind = "i" if header.pixel_representation else "u"
    return np.dtype(f"{kind}{header.bits_allocated // 8}")


def check_decodable(header: ImageHeader) -> None:
    """Refuse transfer syntaxes that are not read, before anything is allocated.

    Raises:
        UnsuitableError: the image is encoded in a way that is not read, with its name.
    """
    syntax = header.transfer_syntax_uid
    if syntax in NATIVE_SYNTAXES or syntax == _RLE or syntax in _JPEG | _JPEG_LS | _JPEG_2000:
        return
    name = _REFUSED.get(syntax, f"transfer syntax {syntax}")
    raise UnsuitableError((f"the pixels are encoded as {name}, which is not read",))


def decode_into(image: EncodedImage, plane: NDArray[Any]) -> None:
    """Write a grey-scale or palette image's stored values into a plane of its rows, columns and
    ``stored_dtype``.

    Raises:
        UnsuitableError: a transfer syntax that is not read.
        RejectedError: the pixels cannot be decoded or contradict the header.
    """
    raw = plane.view(f"u{plane.itemsize}")
    raw[...] = decoded_samples(image)
    _to_stored_values(plane, image.header)


def decoded_samples(image: EncodedImage) -> NDArray[Any]:
    """The samples as they are encoded: (row, column), or (row, column, sample) of colour; those
    of native ``YBR_FULL_422`` as the bytes of each row.

    Raises:
        UnsuitableError: a transfer syntax that is not read.
        RejectedError: the pixels cannot be decoded or contradict the header.
    """
    header = image.header
    check_decodable(header)
    if image.compressed == (header.transfer_syntax_uid in NATIVE_SYNTAXES):
        raise RejectedError("the pixel data is not encoded as the transfer syntax says")
    return _decompressed(image) if image.compressed else _native(image)


def _to_stored_values(plane: NDArray[Any], header: ImageHeader) -> None:
    """Drop the bits that are not part of the value and extend its sign (PS3.5 8.1.1)."""
    above = header.bits_allocated - 1 - header.high_bit
    unused = header.bits_allocated - header.bits_stored
    if not unused:
        return
    unsigned = header.pixel_representation == 0
    if unsigned and above == unused and int(plane.max()) < 1 << header.bits_stored:
        return
    np.left_shift(plane, above, out=plane)
    np.right_shift(plane, unused, out=plane)


def _native(image: EncodedImage) -> NDArray[Any]:
    header = image.header
    order = ">" if header.big_endian else "<"
    values = np.frombuffer(image.pixels, dtype=f"{order}u{header.bits_allocated // 8}")
    if header.samples_per_pixel == 1:
        return values.reshape(header.rows, header.columns)
    if header.bytes_per_frame != header.rows * header.columns * header.samples_per_pixel:
        return values.reshape(header.rows, -1)
    if header.planar_configuration:
        return np.moveaxis(values.reshape(-1, header.rows, header.columns), 0, -1)
    return values.reshape(header.rows, header.columns, -1)


def _decompressed(image: EncodedImage) -> NDArray[Any]:
    header = image.header
    decode = _codec(header.transfer_syntax_uid)
    try:
        decoded = decode(bytes(image.pixels), header)
    except _DECODING_FAULTS as error:
        raise RejectedError(f"the pixels cannot be decoded ({type(error).__name__})") from None
    if decoded.shape != _shape(header):
        raise RejectedError("the compressed image has another shape than its header says")
    wanted = header.bits_allocated // 8
    if decoded.dtype.kind not in "iu" or decoded.itemsize > wanted:
        raise RejectedError("the compressed image has more bits than its header says")
    if decoded.itemsize < wanted:  # a stream of up to 8 bits in 16 allocated ones
        return decoded.astype(f"{decoded.dtype.kind}{wanted}").view(f"u{wanted}")
    return decoded.view(f"u{wanted}")


def _shape(header: ImageHeader) -> tuple[int, ...]:
    samples = header.samples_per_pixel
    return (header.rows, header.columns, samples)[: 2 if samples == 1 else 3]


_Codec = Callable[[bytes, ImageHeader], NDArray[Any]]


def _codec(transfer_syntax_uid: str) -> _Codec:
    if transfer_syntax_uid == _RLE:
        return _rle
    if transfer_syntax_uid in _JPEG:
        return _jpeg
    return _jpeg_ls if transfer_syntax_uid in _JPEG_LS else _jpeg_2000


def _rle(frame: bytes, header: ImageHeader) -> NDArray[Any]:
    """PS3.5 annex G: one segment for each byte of each sample, most significant first."""
    size, samples = header.bits_allocated // 8, header.samples_per_pixel
    if struct.unpack_from("<I", frame)[0] != size * samples:
        raise RejectedError("the RLE image has another number of segments than bytes per pixel")
    needed = header.rows * header.columns * size * samples
    decoded = imagecodecs.dicomrle_decode(frame, f"<u{size}", out=needed)
    planes = np.frombuffer(decoded, dtype=f"<u{size}").reshape(-1, header.rows, header.columns)
    return planes[0] if samples == 1 else np.moveaxis(planes, 0, -1)


def _jpeg(frame: bytes, header: ImageHeader) -> NDArray[Any]:
    _check_jpeg_frame(frame, header)
    # Colour as it is encoded: libjpeg would only guess what the header says.
    space = "YCBCR" if header.samples_per_pixel > 1 else None
    decoded: NDArray[Any] = imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace=space)
    return decoded


def _jpeg_ls(frame: bytes, header: ImageHeader) -> NDArray[Any]:
    _check_jpeg_frame(frame, header)
    decoded: NDArray[Any] = imagecodecs.jpegls_decode(frame)
    return decoded


def _jpeg_2000(frame: bytes, header: ImageHeader) -> NDArray[Any]:
    _check_jpeg_2000_size(frame, header)
    decoded: NDArray[Any] = imagecodecs.jpeg2k_decode(frame)
    return decoded


def _check_jpeg_frame(frame: bytes, header: ImageHeader) -> None:
    """Walk the markers to the frame header (T.81 B.2.2, T.87 C.2.2)."""
    if frame[:2] != b"\xff\xd8":
        raise RejectedError("the compressed image is not a JPEG stream")
    at = 2
    while True:
        marker, kind, length = struct.unpack_from(">BBH", frame, at)
        if marker != 0xFF:  # noqa: PLR2004 - every marker begins with FF
            raise RejectedError("the compressed image is broken between two markers")
        if kind == 0xFF:  # noqa: PLR2004 - fill byte
            at += 1
            continue
        if (0xC0 <= kind <= 0xCF and kind not in _TABLES_NOT_FRAMES) or kind == 0xF7:  # noqa: PLR2004
            break
        at += 2 + length
    if kind not in _SEQUENTIAL_FRAMES:
        raise RejectedError("the compressed image is a progressive or hierarchical JPEG")
    rows, columns, components = struct.unpack_from(">HHB", frame, at + 5)
    _check_claim(rows, columns, components, header)


def _check_jpeg_2000_size(frame: bytes, header: ImageHeader) -> None:
    """The SIZ marker follows the start of the codestream (T.800 A.5.1)."""
    if frame[:4] != b"\xff\x4f\xff\x51":
        raise RejectedError("the compressed image is not a JPEG 2000 codestream")
    width, height, left, top = struct.unpack_from(">IIII", frame, 8)
    (components,) = struct.unpack_from(">H", frame, 40)
    _check_claim(height - top, width - left, components, header)
    if frame[42] & 0x80 and header.pixel_representation == 0:
        raise RejectedError("the JPEG 2000 stream is signed, its header says unsigned")


def _check_claim(rows: int, columns: int, components: int, header: ImageHeader) -> None:
    if (rows, columns, components) != (header.rows, header.columns, header.samples_per_pixel):
        raise RejectedError(
            f"the compressed image is {rows} x {columns} x {components}, its header says "
            f"{header.rows} x {header.columns} x {header.samples_per_pixel}"
        )
