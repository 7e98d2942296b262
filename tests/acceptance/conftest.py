"""Peers that one module's tests share; each module begins with empty ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.fhir_server import FhirServer
from tests.peers.orthanc import Orthanc


@pytest.fixture(scope="module")
def module_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An Orthanc that holds nothing."""
    server = Orthanc(tmp_path_factory.mktemp("orthanc"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def module_fhir_server(fhir_server_process: FhirServer) -> FhirServer:
    """A FHIR server that holds nothing."""
    if not fhir_server_process.running:
        fhir_server_process.start()
    fhir_server_process.reset()
    return fhir_server_process
