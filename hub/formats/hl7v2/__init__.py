"""HL7 v2.5.1 messages, in and out."""
