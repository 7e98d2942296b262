"""A recording, as a model is given it: apart from how it is read, which takes pydicom."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hub.domain.coding import Code


@dataclass(frozen=True, slots=True)
class Waveform:
    """The channels of one multiplex group."""

    millivolts: NDArray[np.float32] = field(repr=False)
    """(channel, sample)"""
    frequency_hz: float
    leads: tuple[Code, ...]
    """Channel source of each channel (CID 3001 for an ECG)."""
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return float(self.millivolts.shape[1] / self.frequency_hz)
