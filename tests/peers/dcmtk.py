"""The DICOM tools of others: DCMTK sends and dumps, dicom3tools validates."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.peers import find_tool


def storescu(
    paths: Path | Sequence[Path],
    port: int,
    *,
    aet: str = "STORESCU",
    aec: str = "CAIDX",
    options: Sequence[str] = (),
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Send files and folders by C-STORE over one association.

    Proposes only the presentation contexts that the files need; ``options`` such as
    ``-xs`` (JPEG lossless) choose the transfer syntaxes. Raises AssertionError with the
    tool's output when any object failed, unless ``check`` is False.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    folders = ["+sd", "+r"] if any(path.is_dir() for path in files) else []
    called = ["-aet", aet, "-aec", aec, "127.0.0.1", str(port)]
    names = [str(path) for path in files]
    return _dcmtk("storescu", ["-v", "-R", *folders, *options, *called, *names], check=check)


def dcmsend(
    paths: Sequence[Path],
    port: int,
    *,
    aet: str = "DCMSEND",
    aec: str = "CAIDX",
    options: Sequence[str] = (),
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Send files by C-STORE as they are, in whatever transfer syntax they have."""
    called = ["-aet", aet, "-aec", aec, "127.0.0.1", str(port)]
    names = [str(path) for path in paths]
    return _dcmtk("dcmsend", ["-v", "-dn", *options, *called, *names], check=check)


def echoscu(
    port: int,
    *,
    aet: str = "ECHOSCU",
    aec: str = "CAIDX",
    options: Sequence[str] = (),
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """C-ECHO."""
    called = ["-aet", aet, "-aec", aec, "127.0.0.1", str(port)]
    return _dcmtk("echoscu", ["-v", *options, *called], check=check)


def termscu(port: int, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Ask for a shutdown by DCMTK's own SOP class: a request that nobody else accepts."""
    return _dcmtk("termscu", ["-v", "127.0.0.1", str(port)], check=check)


def movescu(
    port: int,
    study_instance_uid: str,
    destination: str,
    *,
    aec: str,
    options: Sequence[str] = (),
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Have an archive send a study to an AE title that it knows (Study Root C-MOVE)."""
    called = ["-aec", aec, "-aem", destination, *_study(study_instance_uid)]
    return _dcmtk("movescu", ["-v", "-S", *options, *called, "127.0.0.1", str(port)], check=check)


def findscu(port: int, study_instance_uid: str) -> subprocess.CompletedProcess[str]:
    """Ask for a study (Study Root C-FIND)."""
    arguments = ["-v", "-S", *_study(study_instance_uid), "127.0.0.1", str(port)]
    return _dcmtk("findscu", arguments, check=False)


def getscu(port: int, study_instance_uid: str) -> subprocess.CompletedProcess[str]:
    """Ask to be sent a study on the same association (Study Root C-GET)."""
    arguments = ["-v", "-S", *_study(study_instance_uid), "127.0.0.1", str(port)]
    return _dcmtk("getscu", arguments, check=False)


def _study(study_instance_uid: str) -> list[str]:
    keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study_instance_uid}"]
    return [part for key in keys for part in ("-k", key)]


def dcmdump(file: Path, *options: str) -> str:
    """The data set as text."""
    return _dcmtk("dcmdump", [*options, str(file)]).stdout


def dsrdump(file: Path, *options: str) -> str:
    """A structured report as an indented tree; fails where DCMTK finds it malformed."""
    return _dcmtk("dsrdump", [*options, str(file)]).stdout


def dciodvfy(file: Path) -> list[str]:
    """The errors that dicom3tools finds in an object; empty when it is valid."""
    tool = find_tool("dciodvfy", "dicom3tools")
    done = subprocess.run(
        [tool, str(file)],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    lines = (done.stdout + done.stderr).splitlines()
    if not lines and done.returncode:
        return [f"Error - dciodvfy ended with status {done.returncode}"]
    return [line for line in lines if line.startswith("Error")]


def _dcmtk(
    name: str, arguments: Sequence[str], *, check: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [find_tool(name, "dcmtk"), *arguments],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
        env={**os.environ, "TCP_NODELAY": "1"},  # else DCMTK waits for Nagle's algorithm
    )
    if check:
        assert done.returncode == 0, f"{name} failed:\n{done.stdout}{done.stderr}"
    return done
