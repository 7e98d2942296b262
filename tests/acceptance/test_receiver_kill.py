"""kill -9 of the receiver and of the indexer under load: nothing acknowledged is lost, nothing is
there twice, nothing partial is ever visible; and the receiver is back at once."""

from __future__ import annotations

import hashlib
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median

import pytest
from pydicom import dcmread

from hub.formats.dicom.part10 import split_part10
from tests.acceptance import studies
from tests.acceptance.scanner import Scanner, must_hold, must_hold_exactly
from tests.bench.intake_corpus import Corpus, ct
from tests.bench.intake_sender import Association
from tests.builders import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN
from tests.peers import dcmtk
from tests.running_hub import RunningHub, StartHub, wait_for

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

KILLS = 50
BACK_WITHIN = 10.0
"""Seconds; for a loaded machine. ``python -m tests.bench restart`` measures how long it takes."""
NO_MODEL = {"routes": [{"name": "none", "when": "false", "model": "lung-density"}]}


@pytest.fixture(scope="module")
def corpora() -> tuple[Corpus, Corpus]:
    """Images of 10 KB and of half a megabyte, which a kill is likely to cut in two."""
    return ct("small", 20, 64), ct("large", 6, 512)


@pytest.fixture
def hub(start_hub: StartHub) -> Iterator[RunningHub]:
    running = start_hub(sections=NO_MODEL)
    yield running
    running.kill()
    shutil.rmtree(running.data, ignore_errors=True)  # hundreds of megabytes


@pytest.fixture
def scanners(hub: RunningHub, corpora: tuple[Corpus, Corpus]) -> list[Scanner]:
    """Four at a time; one of them sends large images."""
    small, large = corpora
    return [Scanner(n, hub.dicom_port, large if n == 0 else small) for n in range(4)]


def test_kill_of_the_receiver_under_load_loses_and_doubles_nothing(
    hub: RunningHub, scanners: list[Scanner]
) -> None:
    chance, back = random.Random(50), []
    for scanner in scanners:
        scanner.start()
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.02, 0.5))
        hub.kill("receiver")
        back.append(_seconds_until_it_answers(hub.dicom_port))
    for scanner in scanners:
        scanner.finish()
    print(f"back after {median(back):.3f} s, at most {max(back):.3f} s")
    assert sum(scanner.broken for scanner in scanners) >= KILLS, "the kills hit nothing"
    must_hold_exactly(hub, scanners)


def test_kill_of_the_indexer_under_load_loses_and_doubles_nothing(
    hub: RunningHub, scanners: list[Scanner]
) -> None:
    chance = random.Random(10)
    for scanner in scanners:
        scanner.start()
    for _ in range(10):
        time.sleep(chance.uniform(0.05, 1.5))
        hub.kill("indexer")
        _wait_for_process(hub, "indexer")
    for scanner in scanners:
        scanner.finish()
    assert not any(scanner.broken for scanner in scanners), "the receiver needs no indexer"
    must_hold_exactly(hub, scanners)


def test_kill_of_the_receiver_while_dcmsend_sends(hub: RunningHub, tmp_path: Path) -> None:
    study = studies.phantom(tmp_path / "study", slices=120)
    chance = random.Random(3)
    for _ in range(3):
        sending = threading.Thread(
            target=lambda: dcmtk.dcmsend(study.files, hub.dicom_port, check=False)
        )
        sending.start()
        time.sleep(chance.uniform(0.02, 0.2))
        hub.kill("receiver")
        sending.join()
        _seconds_until_it_answers(hub.dicom_port)
    dcmtk.dcmsend(study.files, hub.dicom_port)
    must_hold(hub, {_uid(file): _sha256(file) for file in study.files})


def _seconds_until_it_answers(port: int) -> float:
    """An association, and a C-ECHO on it."""
    begin = time.monotonic()
    while time.monotonic() < begin + BACK_WITHIN:
        with suppress(OSError):
            association = Association(port, CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)
            association.echo()
            seconds = time.monotonic() - begin
            association.release()
            return seconds
        time.sleep(0.005)
    raise AssertionError(f"no receiver within {BACK_WITHIN} s")


def _wait_for_process(hub: RunningHub, role: str) -> None:
    def runs() -> bool:
        with suppress(AssertionError):
            return hub.pid(role) > 0
        return False

    wait_for(runs, f"the {role} to run again", BACK_WITHIN, hub.log_text)


def _uid(file: Path) -> str:
    return str(dcmread(file, stop_before_pixels=True).SOPInstanceUID)


def _sha256(file: Path) -> str:
    return hashlib.sha256(split_part10(file.read_bytes())[1]).hexdigest()
