"""DICOMweb of the whole hub: what is sent to the web role is indexed, found and given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from hub.domain.access import Scope
from hub.formats.dicom.header import split_part10
from tests.contracts.recording import STUDY, dicom_file, eventually
from tests.running_hub import RunningHub
from tests.unit.connectors.dicomweb.bodies import multipart, parts_of, stow

pytestmark = pytest.mark.peers

LARGE = 12 << 20
"""Goes to the disk as it arrives."""


def test_what_is_stored_is_indexed_found_and_given_back(
    start_hub: Callable[..., RunningHub],
) -> None:
    hub = start_hub(
        sections={"sources": [{"name": "web-in", "kind": "dicomweb", "path": "/pacs/dicom-web"}]},
        supervised=False,
        roles=("indexer", "web"),
    )
    url = f"{hub.http_url}/pacs/dicom-web"
    files = [dicom_file("1.2.1"), dicom_file("1.2.2", padding=LARGE)]
    key = hub.headers(Scope.SYSTEM)
    answer = stow(url, multipart(files), study=STUDY, **key)
    assert answer.status_code == 200, answer.text

    def found() -> list[dict[str, Any]]:
        searched = httpx.get(f"{url}/studies", params={"PatientName": "canary*"}, headers=key)
        return [] if searched.status_code == 204 else searched.json()

    eventually(lambda: any(s["00201208"]["Value"] == [2] for s in found()), 30)
    accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    given = parts_of(httpx.get(f"{url}/studies/{STUDY}", headers=accept | key, timeout=60))
    assert sorted(split_part10(content)[1] for _, content in given) == sorted(
        split_part10(file)[1] for file in files
    )
    assert httpx.get(f"{hub.http_url}/health/live").json() == {"status": "live"}
    assert httpx.get(f"{url}/studies/1.9", headers=key).status_code == 404
    assert httpx.get(f"{url}/studies/{STUDY}").status_code == 401
