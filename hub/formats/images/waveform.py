"""Waveform objects to millivolt (PS3.3 C.10.9): the first multiplex group."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError

from hub.domain.coding import Code
from hub.errors import RejectedError, UnsuitableError
from hub.formats.images.recording import Waveform

READING_FAULTS = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    InvalidDicomError,
    LookupError,
    OSError,
    RuntimeError,  # NotImplementedError, RecursionError
    TypeError,
    ValueError,
    EOFError,
    struct.error,
)
"""What pydicom raises on malformed files; ``MemoryError`` is not among them on purpose."""

_MILLIVOLT_PER_UNIT = {"mV": 1.0, "uV": 0.001}
_SAMPLE_TYPES = {"SB": "i1", "UB": "u1", "SS": "i2", "US": "u2", "SL": "i4", "UL": "u4"}
_BIG_ENDIAN = "1.2.840.10008.1.2.2"


def read_waveform(data: bytes) -> Waveform:
    """Read the first multiplex group of a Part 10 waveform file.

    Raises:
        UnsuitableError: not a voltage, or samples are missing.
        RejectedError: it cannot be read or contradicts itself.
    """
    try:
        return _waveform(dcmread(io.BytesIO(data)))
    except READING_FAULTS as error:
        raise RejectedError(f"the waveform cannot be read ({type(error).__name__})") from None


def _waveform(dataset: Dataset) -> Waveform:
    groups = dataset.get("WaveformSequence")
    if not groups:
        raise RejectedError("the file has no waveform")
    group = groups[0]
    channels = list(group.ChannelDefinitionSequence)
    raw = _samples(group, len(channels), str(dataset.file_meta.TransferSyntaxUID))
    frequency = float(group.SamplingFrequency)
    if not 0 < frequency < 1e6:  # noqa: PLR2004 - no biosignal is sampled at a megahertz
        raise RejectedError("SamplingFrequency is not a usable number")
    millivolts = np.empty(raw.shape, np.float32)
    for index, channel in enumerate(channels):
        factor, baseline = _calibration(channel)
        millivolts[index] = raw[index] * factor + baseline
    if not np.isfinite(millivolts).all():
        raise RejectedError("the channel calibration is not a usable number")
    return Waveform(
        millivolts=millivolts,
        frequency_hz=frequency,
        leads=tuple(_lead(channel) for channel in channels),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        study_instance_uid=str(dataset.StudyInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        modality=str(dataset.get("Modality") or ""),
        warnings=_warnings(channels),
    )


def _samples(group: Dataset, channels: int, transfer_syntax_uid: str) -> NDArray[Any]:
    """(channel, sample) raw values; the file interleaves the channels (PS3.3 C.10.9.1.7)."""
    interpretation = str(group.WaveformSampleInterpretation)
    if interpretation not in _SAMPLE_TYPES:
        raise UnsuitableError((f"samples of type {interpretation} are not read",))
    order = ">" if transfer_syntax_uid == _BIG_ENDIAN else "<"
    dtype = np.dtype(order + _SAMPLE_TYPES[interpretation])
    samples = int(group.NumberOfWaveformSamples)
    needed = channels * samples * dtype.itemsize
    data = group.WaveformData
    if int(group.NumberOfWaveformChannels) != channels or not channels or samples <= 0:
        raise RejectedError("the number of channels or samples contradicts the channel list")
    if group.WaveformBitsAllocated != dtype.itemsize * 8 or len(data) < needed:
        raise RejectedError("the waveform data does not hold the samples it announces")
    interleaved = np.frombuffer(data, dtype, count=channels * samples)
    padding = group.get("WaveformPaddingValue")
    if padding is not None:
        absent = np.frombuffer(padding[: dtype.itemsize], dtype)[0]
        if (interleaved == absent).any():
            raise UnsuitableError(("samples are missing in the waveform (padding)",))
    return interleaved.reshape(samples, channels).T


def _calibration(channel: Dataset) -> tuple[float, float]:
    """Millivolt per sample step, and the offset of sample value 0 in millivolt.

    Channel Baseline (003A,0213) is given in the units of the sensitivity.
    """
    if "ChannelSensitivity" not in channel:
        raise UnsuitableError(("a channel has no sensitivity: its voltage is not known",))
    unit = str(channel.ChannelSensitivityUnitsSequence[0].CodeValue)
    if unit not in _MILLIVOLT_PER_UNIT:
        raise UnsuitableError((f"a channel is measured in {unit}, not in mV or uV",))
    per_unit = _MILLIVOLT_PER_UNIT[unit]
    correction = float(channel.get("ChannelSensitivityCorrectionFactor") or 1.0)
    baseline = float(channel.get("ChannelBaseline") or 0.0)
    return float(channel.ChannelSensitivity) * correction * per_unit, baseline * per_unit


def _lead(channel: Dataset) -> Code:
    source = channel.ChannelSourceSequence[0]
    return Code(str(source.CodeValue), str(source.CodingSchemeDesignator), str(source.CodeMeaning))


def _warnings(channels: list[Dataset]) -> tuple[str, ...]:
    skews = [
        channel.get("ChannelTimeSkew") or channel.get("ChannelSampleSkew") for channel in channels
    ]
    if any(float(skew or 0.0) for skew in skews):
        return ("the channels were not sampled at the same moment; their skew is not corrected",)
    return ()
