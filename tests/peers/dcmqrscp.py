"""A small archive: DCMTK's dcmqrscp with a storage area of its own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.peers import find_tool, free_port
from tests.peers.dcmtk import echoscu

_START_TIMEOUT = 20.0


class Dcmqrscp:
    """C-STORE in; C-FIND, C-MOVE and C-GET out. ``movers`` are whom C-MOVE may send to:
    AE title -> port on this host; ``options`` such as ``+xt`` (JPEG-LS) choose what it accepts."""

    ae_title = "DCMQRSCP"

    def __init__(
        self, folder: Path, movers: Mapping[str, int], options: Sequence[str] = ()
    ) -> None:
        self._options = options
        self.port = free_port()
        self.folder = folder
        (folder / "storage").mkdir(parents=True)
        hosts = "\n".join(
            f"peer{n} = ({title}, 127.0.0.1, {port})"
            for n, (title, port) in enumerate(movers.items())
        )
        self._configuration = folder / "dcmqrscp.cfg"
        self._configuration.write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 131072\nMaxAssociations = 16\n"
            f"HostTable BEGIN\n{hosts}\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{self.ae_title} {folder / 'storage'} RW (200, 1024mb) ANY\n"
            "AETable END\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return when it answers C-ECHO."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    find_tool("dcmqrscp", "dcmtk"),
                    *("-v", *self._options, "-c", str(self._configuration)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TCP_NODELAY": "1"},
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while echoscu(self.port, aec=self.ae_title, check=False).returncode:
            assert time.monotonic() < deadline, (self.folder / "log").read_text(errors="replace")
            time.sleep(0.05)

    def stop(self) -> None:
        """End at once; does nothing when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None
