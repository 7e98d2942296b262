"""The studies that the path benchmark sends, and where their results go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from hub.formats.images.ct_phantom import chest_phantom
from tests.peers.fhir_server import FhirServer
from tests.peers.orthanc import Orthanc


@dataclass(frozen=True, slots=True)
class StudyFiles:
    """One study that nobody has seen before, as files on disk."""

    study_instance_uid: str
    paths: tuple[Path, ...]


def new_study(folder: Path, slices: int) -> StudyFiles:
    """Slices of the chest phantom, 512 x 512, 16 bits, uncompressed."""
    phantom = chest_phantom(slices=slices, study_instance_uid=f"2.25.{uuid4().int}")
    folder.mkdir(parents=True)
    paths = []
    for number, content in enumerate(phantom.files):
        path = folder / f"{number:04}.dcm"
        path.write_bytes(content)
        paths.append(path)
    return StudyFiles(phantom.study_instance_uid, tuple(paths))


@dataclass(frozen=True, slots=True)
class Peers:
    """A real PACS and a real FHIR server, for both sides of the comparison."""

    pacs: Orthanc
    ehr: FhirServer

    def reset(self) -> None:
        """What earlier rounds delivered must not slow down the next."""
        self.ehr.reset()


@contextmanager
def running_peers(folder: Path) -> Iterator[Peers]:
    """Both servers, empty."""
    peers = Peers(Orthanc(folder / "pacs"), FhirServer(_made(folder / "ehr")))
    try:
        peers.pacs.start()
        peers.ehr.start()
        yield peers
    finally:
        peers.pacs.kill()
        peers.ehr.kill()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
