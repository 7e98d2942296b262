"""What a person can configure of a webhook."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from hub.domain.delivery import DocumentKind
from hub.transport.http_config import HttpPeerConfig

KINDS = (
    DocumentKind.NOTICE,
    DocumentKind.FHIR,
    DocumentKind.FHIR_R5,
    DocumentKind.ORU,
    DocumentKind.PDF,
)


class WebhookDestinationConfig(HttpPeerConfig):
    """A program that is told of results by POST."""

    url: str
    """Where documents are posted to, without a query."""
    secrets: tuple[SecretStr, ...] = Field(min_length=1, max_length=4)
    """What the signatures are made with, each `whsec_` and base64 of 24 to 64 bytes; write
    `env:NAME` or `file:/path`. Two while the receiver changes from one to the other."""
    documents: tuple[DocumentKind, ...] = (DocumentKind.NOTICE,)
    """What is posted: `notice`, `fhir`, `fhir_r5`, `oru` or `pdf`; all but `notice` hold names and
    birth dates."""
    timeout: float = Field(default=15.0, gt=0, le=600)
    """Seconds for a whole exchange; a receiver that takes longer is asked again later."""
    allow_http: bool = False
    """Post without TLS to another machine; in a laboratory only."""

    @field_validator("documents")
    @classmethod
    def _known(cls, documents: tuple[DocumentKind, ...]) -> tuple[DocumentKind, ...]:
        if not documents or not set(documents) <= set(KINDS):
            raise ValueError(f"must be of {', '.join(KINDS)}")
        return documents

    @model_validator(mode="after")
    def _by_tls(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme == "http" and not self.allow_http and not _is_loopback(parts.hostname):
            raise ValueError("url must be https, or allow_http be set")
        return self


def _is_loopback(host: str | None) -> bool:
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"
