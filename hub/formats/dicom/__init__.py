"""Encoded DICOM data sets, read and written (PS3.5, PS3.10)."""
