"""DICOM objects that the hub writes, and what all of them share (PS3.3)."""
