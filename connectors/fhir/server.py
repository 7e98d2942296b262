"""A FHIR server that we call: as a destination, or as a health record."""

from __future__ import annotations

from connectors.fhir.config import FhirServerConfig
from connectors.fhir.smart import BackendServices
from hub.errors import RejectedError, TransientError
from hub.formats.fhir.json_text import FHIR_JSON
from hub.formats.http_answers import is_taken
from hub.ports import Clock
from hub.transport.http_peer import HttpPeer
from hub.transport.oauth2 import AuthorizedPeer


class FhirServer(AuthorizedPeer):
    """With an access token for each request where SMART is configured. Thread-safe.

    Args:
        name: in the configuration, for messages.
        config: see there.
        clock: for dates of the server, and for assertions.

    Raises:
        ConfigError: the file of certification authorities, or the key for SMART, cannot be used.
    """

    def __init__(self, name: str, config: FhirServerConfig, clock: Clock) -> None:
        headers = {"Accept": FHIR_JSON}
        peer = HttpPeer(name, config, clock, timeout=config.timeout, headers=headers)
        smart = config.smart
        tokens = None if smart is None else BackendServices(smart, config.url, peer, clock)
        super().__init__(peer, tokens)
        self._name = name
        self._url = config.url

    def check(self) -> str:
        """Read the CapabilityStatement; with SMART, get a token first.

        Raises:
            TransientError: no server, or something that is no FHIR server.
        """
        try:
            answer = self.exchange("GET", f"{self._url}/metadata")
        except RejectedError as error:  # by the authorization server
            raise TransientError(f"{self._name}: {error}") from error
        body = answer.json
        if not is_taken(answer.status):
            raise TransientError(f"{self._name}: HTTP {answer.status} for metadata")
        if not isinstance(body, dict) or body.get("resourceType") != "CapabilityStatement":
            raise TransientError(f"{self._name}: the answer is no CapabilityStatement")
        software = body.get("software")
        name = software.get("name", "") if isinstance(software, dict) else ""
        return f"FHIR {body.get('fhirVersion', 'of unknown version')} {name}".strip()
