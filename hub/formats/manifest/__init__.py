"""``model.yaml`` and model packages."""
