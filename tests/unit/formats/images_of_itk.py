"""dcmqi's command line tools, and the NRRD files that they write."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {
    "unsigned char": "<u1",
    "uchar": "<u1",
    "short": "<i2",
    "unsigned short": "<u2",
    "float": "<f4",
    "double": "<f8",
}


def run_dcmqi(tool: str, folder: Path, *arguments: str) -> str:
    """Run a tool of the dcmqi package, writing into ``folder``; what it prints."""
    command = [str(Path(sys.executable).with_name(tool)), *arguments]
    done = subprocess.run(
        [*command, "--outputDirectory", str(folder), "-t", "nrrd"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    return printed


def read_nrrd(path: Path) -> Any:
    """(slice, row, column) of a NRRD file (teem.sourceforge.net/nrrd/format.html)."""
    head, _, data = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    raw = gzip.decompress(data) if fields["encoding"] == "gzip" else data
    sizes = [int(size) for size in fields["sizes"].split()]
    return np.frombuffer(raw, _TYPES[fields["type"]]).reshape(sizes[::-1])
