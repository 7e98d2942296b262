"""A real FHIR R4 server and two independent FHIR validators, on Node.js.

``tests/peers/fhir`` holds their few lines of JavaScript and the lock file of their packages,
which are installed on first use.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.peers import find_tool, free_port
from tests.peers.node_packages import install_packages

START_TIMEOUT = 60.0
FOLDER = Path(__file__).parent / "fhir"

Json = dict[str, Any]


class FhirServer:
    """One server with its own journal; ``stop``, ``kill`` and ``start`` keep port and data."""

    def __init__(self, folder: Path) -> None:
        install_packages(FOLDER)
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}/fhir"
        self._node = find_tool("node", "nodejs")
        self._journal = folder / "journal.jsonl"
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start, and return when it answers."""
        assert self._process is None, "the FHIR server runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._node, str(FOLDER / "server.mjs"), str(self.port), str(self._journal)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the FHIR server did not start:\n{self._log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End in an orderly way; does nothing when it does not run."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)
            self._process = None

    def kill(self) -> None:
        """End at once, as by a power cut."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None

    def reset(self) -> None:
        """Forget every resource."""
        root = self.base_url.removesuffix("/fhir")
        httpx.post(f"{root}/$reset", timeout=30).raise_for_status()

    def search(self, resource_type: str, **parameters: str) -> list[Json]:
        """All resources of a type that match, e.g. ``search("Observation", status="final")``."""
        query = {"_count": "1000", **parameters}
        answer = httpx.get(f"{self.base_url}/{resource_type}", params=query, timeout=60)
        entries = answer.raise_for_status().json().get("entry", [])
        return [entry["resource"] for entry in entries]

    def read(self, reference: str) -> Json:
        """The resource that a reference such as ``Device/123`` leads to."""
        answer = httpx.get(f"{self.base_url}/{reference}", timeout=60)
        return dict(answer.raise_for_status().json())

    def counts(self, *resource_types: str) -> dict[str, int]:
        """How many resources of each type it holds; by default all types of a report."""
        kinds = resource_types or (
            "Device",
            "ImagingStudy",
            "Observation",
            "DiagnosticReport",
            "Provenance",
            "Patient",
        )
        return {kind: len(self.search(kind)) for kind in kinds}

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.base_url}/metadata", timeout=5).is_success
        except httpx.TransportError:
            return False


class FhirValidators:
    """``@medplum/core`` and npm's ``fhir``, which share no code with fhir.resources."""

    def __init__(self) -> None:
        install_packages(FOLDER)
        self._process = subprocess.Popen(
            [find_tool("node", "nodejs"), str(FOLDER / "validate.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready\n"

    def issues(self, resource: Json) -> list[Json]:
        """What both find in a resource: ``{validator, severity, text}``, remarks included."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(resource) + "\n")
        self._process.stdin.flush()
        return list(json.loads(self._line()))

    def errors(self, resource: Json) -> list[Json]:
        """The issues that are errors."""
        return [issue for issue in self.issues(resource) if issue["severity"] == "error"]

    def objections(self, resource: Json) -> list[Json]:
        """The issues that are errors or warnings, for resources as a server stores them.

        References by ``urn:uuid`` are warned of. Left out is what fhir.js says of every code
        of SNOMED CT, LOINC, DICOM and HL7 v2 and v3: it brings none of these terminologies.
        """
        return [
            issue
            for issue in self.issues(resource)
            if issue["severity"] != "info" and not issue["text"].endswith("not found in value set")
        ]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture(scope="session")
def fhir_server_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FhirServer]:
    """One FHIR server for the whole run; tests use ``fhir_server``."""
    server = FhirServer(tmp_path_factory.mktemp("fhir"))
    yield server
    server.kill()


@pytest.fixture
def fhir_server(fhir_server_process: FhirServer) -> FhirServer:
    """A FHIR server that runs and is empty."""
    if not fhir_server_process.running:
        fhir_server_process.start()
    fhir_server_process.reset()
    return fhir_server_process


@pytest.fixture(scope="session")
def fhir_validators() -> Iterator[FhirValidators]:
    """Two independent FHIR R4 validators."""
    validators = FhirValidators()
    yield validators
    validators.close()
