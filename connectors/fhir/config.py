"""Configuration of FHIR: the hub as a server, and a server as a destination."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from hub.domain.delivery import DocumentKind
from hub.transport.http_config import HttpPeerConfig

MEBIBYTE = 1 << 20


class FhirSourceConfig(BaseModel):
    """FHIR R4 into the hub, orders and values, and the reports of the hub for those who come for
    them; part of the hub's HTTP server (``web.host``, ``web.port``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    path: str = Field(default="/fhir", pattern=r"^(?:/[A-Za-z0-9._~-]+)+$", max_length=200)
    """Where it is served; each source has a path of its own."""
    maximum_bytes: int = Field(default=16 * MEBIBYTE, ge=1024, le=1 << 30)
    """Longest request body."""
    maximum_entries: int = Field(default=10_000, ge=1, le=100_000)
    """Most entries of a Bundle."""
    maximum_results: int = Field(default=200, ge=1, le=1000)
    """Most resources on one page of a search."""
    unknown_resources: Literal["ignore", "refuse"] = "ignore"
    """What becomes of a Bundle that also holds resources of types that the hub does not keep:
    `ignore` takes the rest and says so, entry by entry; `refuse` takes nothing of it."""
    patient_identifier_system: str = Field(default="", max_length=255)
    """System (URI) of the identifiers that are patient IDs without an issuer in the images,
    besides those of `site`; empty: identifiers that name no system are."""


class SmartConfig(BaseModel):
    """Access by SMART Backend Services (SMART App Launch 2.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    client_id: str = Field(min_length=1)
    """What the authorization server calls us."""
    private_key: SecretStr
    """Our private key, as PEM or JWK: RSA (RS384) or EC on P-384 (ES384); write `file:/path` or
    `env:NAME`."""
    key_id: str = ""
    """`kid` of the public key at the authorization server; by default that of the JWK."""
    scope: str = "system/*.cruds"
    """What we ask for, separated by spaces."""
    token_url: str = ""
    """The token endpoint; by default the one that the FHIR server's
    `.well-known/smart-configuration` names."""


class FhirServerConfig(HttpPeerConfig):
    """A FHIR server that we call."""

    timeout: float = Field(default=30.0, gt=0, le=600)
    """Seconds for a whole exchange; a server that takes longer is asked again later."""
    smart: SmartConfig | None = None
    """Get access tokens by SMART Backend Services."""

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if self.smart is not None and (self.bearer_token is not None or self.username):
            raise ValueError("either smart, or bearer_token, or username and password")
        return self


class FhirDestinationConfig(FhirServerConfig):
    """A FHIR server that takes transactions."""

    url: str
    """Base URL, e.g. `https://ehr.example.org/fhir`; transactions are posted to it."""
    documents: tuple[Literal[DocumentKind.FHIR, DocumentKind.FHIR_R5], ...] = Field(
        default=(DocumentKind.FHIR,), min_length=1, max_length=1
    )
    """What is sent there: `fhir` (R4) or `fhir_r5`."""
    base_urls: tuple[str, ...] = Field(default=(), max_length=20)
    """Other base URLs by which the same server is known, as a health record or a sender of orders
    may call it. A report's reference to a resource of this server (below `url` or one of these) is
    sent as a literal one; one to another server's by its identifier."""
    relative_references: bool = False
    """References that name no server (`ServiceRequest/12`), as senders of orders may write them,
    are to resources of this server. Otherwise only their text is sent."""
    guard: bool = True
    """Read the report that is there before it is replaced, bind the update to its version
    (If-Match), and leave it alone where somebody made it final on the server; switch it off only
    for a server that lets us post transactions but read nothing."""
    confirm: Literal["none", "read"] = "none"
    """How it is found out that the server keeps what it took: `read` reads the report back."""
    confirm_within: float = Field(default=300.0, ge=0, le=86400)
    """Seconds that the server may take until it shows a report; after that it is sent again."""

    @field_validator("base_urls")
    @classmethod
    def _bases(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if not all(url.startswith(("http://", "https://")) for url in urls):
            raise ValueError("base URLs begin with http:// or https://")
        return tuple(url.rstrip("/") for url in urls)
