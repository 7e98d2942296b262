"""The fonts of the printed report: DejaVu Sans Condensed for Latin, Greek and Cyrillic."""
