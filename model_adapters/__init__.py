"""One folder, one way to run a model."""
