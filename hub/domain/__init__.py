"""What the hub talks about: frozen values and pure functions.

Rules of this package: standard library only, no I/O, no clock. Names are the
standards' own (DICOM keywords in snake_case, FHIR and IHE words).
"""
