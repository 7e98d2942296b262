"""FHIR R4 and R5: what others send, and what the hub says."""
