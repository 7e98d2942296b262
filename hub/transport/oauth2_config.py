"""What a person can configure of access by OAuth 2.0. Light: every command reads it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator


class OAuth2Config(BaseModel):
    """Access by OAuth 2.0 client credentials (RFC 6749 section 4.4)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    token_url: str
    """The authorization server's token endpoint; `https`, or on this machine."""
    client_id: str = Field(min_length=1)
    """What the authorization server calls us."""
    client_secret: SecretStr
    """Write `env:NAME` or `file:/path`."""
    authentication: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    """Where the secret stands: in the Authorization header, or in the form (RFC 6749 section
    2.3.1)."""
    scope: str = ""
    """What we ask for, separated by spaces; left out: what the server gives by default."""
    audience: str = ""
    """Whom the token is for, where the authorization server wants to be told."""

    @field_validator("token_url")
    @classmethod
    def _secret_stays_secret(cls, url: str) -> str:
        parts = urlsplit(url)
        if not is_private(url) or not parts.hostname:
            raise ValueError("must be an https:// URL, or http:// on this machine")
        if parts.username or parts.password or parts.fragment:
            raise ValueError("must hold neither credentials nor a fragment")
        return url


def is_private(url: str) -> bool:
    """Whether nobody can listen in: https, or a server on this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.scheme == "https":
        return True
    host = parts.hostname or ""
    try:
        return parts.scheme == "http" and ip_address(host).is_loopback
    except ValueError:
        return parts.scheme == "http" and host == "localhost"
