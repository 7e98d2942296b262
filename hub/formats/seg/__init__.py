"""Segmentations and parametric maps (PS3.3 A.51, A.75)."""
