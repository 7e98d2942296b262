"""Small DICOM files made for one test."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian


def file_bytes(dataset: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = transfer_syntax_uid
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def ct_dataset(number: int, pixels: Any = None, **changes: Any) -> Dataset:
    """Slice ``number`` of an axial CT: 4 x 6 pixels of 2 mm x 0.5 mm, 3 mm apart, signed 16 bit."""
    stored = np.full((4, 6), number, np.int16) if pixels is None else np.asarray(pixels)
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"1.2.826.0.1.{number + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.0.2", "1.2.826.0.3"
    dataset.FrameOfReferenceUID = "1.2.826.0.4"
    dataset.Modality = "CT"
    dataset.ImagePositionPatient = [-10.0, 20.0, 3.0 * number]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [2.0, 0.5]
    dataset.SliceThickness = 3.0
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * stored.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.RescaleType = "HU"
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def ct_slice(number: int, pixels: Any = None, **changes: Any) -> bytes:
    """As ``ct_dataset``, as a file. A change to ``None`` removes the attribute."""
    return file_bytes(ct_dataset(number, pixels, **changes))


def ct_series(numbers: Sequence[int], **changes: Any) -> list[bytes]:
    return [ct_slice(number, **changes) for number in numbers]
