from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from hub.errors import CaidxError, RejectedError, UnsuitableError
from hub.formats.images.waveform import read_waveform


def ecg() -> pydicom.Dataset:
    return pydicom.dcmread(str(get_testdata_file("waveform_ecg.dcm")))


def saved(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def test_a_real_ecg_is_read_in_millivolt() -> None:
    wave = read_waveform(Path(str(get_testdata_file("waveform_ecg.dcm"))).read_bytes())
    raw = np.frombuffer(ecg().WaveformSequence[0].WaveformData, "<i2").reshape(-1, 12)
    assert wave.millivolts.shape == (12, 10000)
    assert wave.millivolts.dtype == np.float32
    assert np.allclose(wave.millivolts[1], raw[:, 1] * 1.25 / 1000)
    assert wave.frequency_hz == 1000
    assert wave.leads[1].code_meaning == "Lead II"


def test_baseline_and_correction_are_applied_in_the_units_of_the_channel() -> None:
    dataset = ecg()
    channel = dataset.WaveformSequence[0].ChannelDefinitionSequence[0]
    channel.ChannelBaseline, channel.ChannelSensitivityCorrectionFactor = "500", "2"
    before, after = read_waveform(saved(ecg())), read_waveform(saved(dataset))
    assert np.allclose(after.millivolts[0], before.millivolts[0] * 2 + 0.5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda g, c: setattr(c.ChannelSensitivityUnitsSequence[0], "CodeValue", "mm[Hg]"), "mm"),
        (lambda g, c: delattr(c, "ChannelSensitivity"), "no sensitivity"),
        (lambda g, c: g.add_new(0x5400100A, "OW", b"\0\0"), "samples are missing"),
    ],
)
def test_what_is_not_a_whole_voltage_is_unsuitable(change: Any, said: str) -> None:
    dataset = ecg()
    group = dataset.WaveformSequence[0]
    change(group, group.ChannelDefinitionSequence[0])
    with pytest.raises(UnsuitableError, match=said):
        read_waveform(saved(dataset))


def test_fewer_samples_than_announced_are_rejected() -> None:
    dataset = ecg()
    dataset.WaveformSequence[0].NumberOfWaveformSamples = 10001
    with pytest.raises(RejectedError, match="does not hold the samples"):
        read_waveform(saved(dataset))


def test_bottomless_nesting_is_rejected() -> None:
    """A thousand sequences in one another."""
    level = b"\x40\x00\x30\xa7SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    head = saved(ecg())[:400]
    meta_end = 132 + 12 + int.from_bytes(head[140:144], "little")
    with pytest.raises(CaidxError):
        read_waveform(head[:meta_end] + level * 5000)
