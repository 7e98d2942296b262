"""Certificates of a test's own authority."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Identity:
    """PEM files."""

    certificate: Path
    private_key: Path


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = name
        self._ca = trustme.CA()
        self.certificate = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.certificate))

    def issue(self, name: str, *, host: str = "127.0.0.1", expired: bool = False) -> Identity:
        """A certificate for a host; an expired one ended yesterday."""
        until = datetime.now(UTC) + timedelta(days=-1 if expired else 30)
        issued = self._ca.issue_cert(host, common_name=name, not_after=until)
        identity = Identity(
            self._folder / f"{self._name}-{name}.pem", self._folder / f"{self._name}-{name}.key"
        )
        issued.private_key_pem.write_to_path(str(identity.private_key))
        chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        identity.certificate.write_bytes(chain)
        return identity
