"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = [
    "tests.peers.fhir_server",
    "tests.peers.orthanc",
    "tests.peers.postgres",
    "tests.running_hub",
]

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public data sets beside the repository; tests that need them skip without them."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the public data sets in {folder.name}/ beside the repository")
    return folder
