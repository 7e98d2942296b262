"""A real PACS: Orthanc with its DICOM, REST and DICOMweb interfaces."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from tests.peers import MissingPeerError, find_tool, free_port

START_TIMEOUT = 60.0
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

Level = Literal["patients", "studies", "series", "instances"]


class Orthanc:
    """One Orthanc with its own storage; ``stop`` and ``start`` keep storage and ports."""

    ae_title = "ORTHANC"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dicom_port = free_port()
        self.http_port = free_port()
        self.http_url = f"http://127.0.0.1:{self.http_port}"
        self.dicomweb_url = f"{self.http_url}/dicom-web"
        self._process: subprocess.Popen[bytes] | None = None
        self._program = find_tool("Orthanc", "orthanc", Path("/usr/sbin"))
        if not DICOMWEB.exists():
            raise MissingPeerError("the DICOMweb plugin of Orthanc", "orthanc-dicomweb")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(self._configuration()))

    def start(self) -> None:
        """Start, and return when it answers."""
        assert self._process is None, "Orthanc runs already"
        with (self.folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, str(self.folder / "orthanc.json")],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "TCP_NODELAY": "1"},
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"Orthanc did not start:\n{self.log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End in an orderly way; does nothing when it does not run."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """End at once, as by a power cut."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None

    def log(self) -> str:
        """What it printed so far."""
        return (self.folder / "orthanc.log").read_text(errors="replace")

    def count(self, level: Level) -> int:
        """How many patients, studies, series or instances it holds."""
        return len(self._get(f"/{level}"))

    def instances(self, study_instance_uid: str = "") -> list[str]:
        """Orthanc's identifiers of all instances, or of those of one study."""
        if not study_instance_uid:
            return list(self._get("/instances"))
        query = {"StudyInstanceUID": study_instance_uid}
        body = {"Level": "Instance", "Query": query, "Limit": 0}
        answer = httpx.post(f"{self.http_url}/tools/find", json=body, timeout=30)
        return list(answer.raise_for_status().json())

    def tags(self, instance_id: str) -> dict[str, Any]:
        """The data set of an instance, by DICOM keyword; sequences are lists of such."""
        return dict(self._get(f"/instances/{instance_id}/simplified-tags"))

    def file(self, instance_id: str) -> bytes:
        """The Part 10 file of an instance."""
        answer = httpx.get(f"{self.http_url}/instances/{instance_id}/file", timeout=60)
        return answer.raise_for_status().content

    def _get(self, path: str) -> Any:
        return httpx.get(self.http_url + path, timeout=60).raise_for_status().json()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.http_url}/system", timeout=5).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _configuration(self) -> dict[str, Any]:
        return {
            "Name": "tests",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "Plugins": [str(DICOMWEB)],
            "DicomAet": self.ae_title,
            "DicomPort": self.dicom_port,
            "DicomModalities": {},
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "UnknownSopClassAccepted": True,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "OverwriteInstances": False,
            "StableAge": 1,
            "ConcurrentJobs": 1,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
        }


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """A PACS of the test's own, empty and running."""
    server = Orthanc(tmp_path / "orthanc")
    server.start()
    yield server
    server.kill()  # its storage is thrown away: no need for seconds of orderly shutdown
