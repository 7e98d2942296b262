"""What a person can configure of vendors' services: whom the hub asks, and who it is to them."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from hub.transport.http_config import HttpPeerConfig
from hub.transport.oauth2_config import OAuth2Config, is_private
from hub.transport.webhook_signature import key_of

_REFERENCES = ("env:", "file:")
"""How secrets begin that stand elsewhere."""


class ServiceConfig(HttpPeerConfig):
    """A vendor's service that may be asked. Its API key stands in `headers` or `bearer_token`."""

    url: str
    """Manifests whose `runtime.url` is this one, or below it, are for this service."""
    oauth2: OAuth2Config | None = None
    """Get access tokens by OAuth 2.0 client credentials."""
    webhook_secrets: tuple[SecretStr, ...] = Field(default=(), max_length=4)
    """What the vendor signs the answers with that it posts to the hub, each `whsec_` and base64 of
    24 to 64 bytes; write `env:NAME` or `file:/path`. Two while the vendor changes from one to the
    other."""
    vendor: str = ""
    """Only models of this vendor (`vendor.name` of their manifests) are asked here, with our
    credentials: else another vendor could name this service in a manifest of its own. Empty: models
    of whichever vendor."""
    allow_http: bool = False
    """Ask without TLS on another machine; in a laboratory only."""

    @field_validator("webhook_secrets")
    @classmethod
    def _are_secrets(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        """References are looked up later; whoever uses the keys finds out (`keys`)."""
        for secret in secrets:
            if not secret.get_secret_value().startswith(_REFERENCES):
                key_of(secret.get_secret_value())
        return secrets

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if self.oauth2 is not None and (self.bearer_token is not None or self.username):
            raise ValueError("either oauth2, or bearer_token, or username and password")
        if not is_private(self.url) and not self.allow_http:
            raise ValueError("url must be https, or allow_http be set")
        return self

    @property
    def keys(self) -> tuple[bytes, ...]:
        """What signatures are checked with.

        Raises:
            ValueError: a secret is none; its text is not repeated.
        """
        return tuple(key_of(secret.get_secret_value()) for secret in self.webhook_secrets)

    def serves(self, url: str) -> bool:
        """Whether a URL is this one, or below it."""
        own, other = urlsplit(self.url), urlsplit(url)
        is_same_origin = (own.scheme, own.hostname, _port(self.url)) == (
            other.scheme,
            other.hostname,
            _port(url),
        )
        path = own.path.rstrip("/")
        return is_same_origin and (other.path == path or other.path.startswith(f"{path}/"))


class VendorHttpConfig(BaseModel):
    """The vendors' services that may be asked; a model whose manifest names another one is
    refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    services: tuple[ServiceConfig, ...] = ()
    """Of several that a URL is below, the longest counts."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        urls = [service.url for service in self.services]
        if len(set(urls)) != len(urls):
            raise ValueError("services: two have the same url")
        return self

    def service_of(self, url: str, vendor: str) -> ServiceConfig | None:
        """The service that the URL of a vendor's manifest belongs to; None: the operator named
        none."""
        found = [service for service in self.services if service.serves(url)]
        longest = max(found, key=lambda service: len(service.url), default=None)
        return longest if longest is not None and longest.vendor in ("", vendor) else None


def _port(url: str) -> int | None:
    parts = urlsplit(url)
    return parts.port or {"https": 443, "http": 80}.get(parts.scheme)
