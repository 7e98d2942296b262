"""The CAIDX hub: between hospital systems and AI vendors."""
