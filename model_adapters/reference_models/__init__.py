"""The models that the hub ships: a manifest, an ONNX graph, and the script that builds it."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent

LUNG_DENSITY = _HERE / "lung-density"
ECG_INTERVALS = _HERE / "ecg-intervals"
LIVER_KIDNEY_SCORES = _HERE / "liver-kidney-scores"
