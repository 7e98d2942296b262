"""What a person can configure of an HTTP server that a connector calls."""

from __future__ import annotations

import re
from typing import Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    field_validator,
    model_validator,
)

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name (RFC 9110 section 5.6.2)."""


class HttpPeerConfig(BaseModel):
    """Where it is, and who we are to it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    url: str
    """Base URL of the service."""
    bearer_token: SecretStr | None = None
    """Sent as `Authorization: Bearer`; write `env:NAME` or `file:/path`."""
    username: str = ""
    """Of basic authentication."""
    password: SecretStr | None = None
    """Of basic authentication; write `env:NAME` or `file:/path`."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Further request headers, e.g. an API key; write the values as `env:NAME` or `file:/path`."""
    verify_tls: bool = True
    """Check the server's certificate; switch it off in a laboratory only."""
    ca_file: FilePath | None = None
    """PEM file with the certification authorities to trust instead of the system's."""
    client_certificate: FilePath | None = None
    """PEM file: our certificate, then its chain, for servers that want one (mutual TLS)."""
    client_key: FilePath | None = None
    """PEM file: the certificate's private key; left out: it stands in the same file."""
    client_key_password: SecretStr | None = None
    """Of an encrypted private key; write `env:NAME` or `file:/path`."""

    @field_validator("url")
    @classmethod
    def _http_base(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http:// or https:// URL")
        if parts.username or parts.password:
            raise ValueError("must not hold credentials: use bearer_token or headers")
        if parts.query or parts.fragment:
            raise ValueError("must be the base URL alone, without query and fragment")
        return url.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _names(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        if not all(_TOKEN.fullmatch(name) for name in headers):
            raise ValueError("the names must be header names")
        return headers

    @field_validator("username")
    @classmethod
    def _user(cls, username: str) -> str:
        if ":" in username:
            raise ValueError("must not hold a colon (RFC 7617)")
        return username

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        if bool(self.username) != (self.password is not None):
            raise ValueError("username and password belong together")
        if self.username and self.bearer_token is not None:
            raise ValueError("either bearer_token or username and password")
        return self

    @model_validator(mode="after")
    def _whole_certificate(self) -> Self:
        if self.client_certificate is None and (self.client_key or self.client_key_password):
            raise ValueError("client_key and client_key_password belong to a client_certificate")
        return self
