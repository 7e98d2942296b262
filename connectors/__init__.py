"""One folder, one protocol."""
