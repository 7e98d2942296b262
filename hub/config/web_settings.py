"""The settings of the HTTP server."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from hub.config.section import Section
from hub.transport.tls_config import TlsServerConfig


def _checked_networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(text)) for text in texts)
    except ValueError:
        raise ValueError("must be networks (10.20.0.0/16) or addresses, no names") from None


def _checked_public_url(text: str) -> str:
    parts = urlsplit(text)
    is_plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if text and (parts.scheme not in {"http", "https"} or not parts.hostname or not is_plain):
        raise ValueError("must be a URL of http or https, without user, query and fragment")
    return text.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class WebTls(TlsServerConfig):
    """TLS of the HTTP server: here the keys, not certificates, say who asks."""

    client_certificates: Literal["none", "optional", "required"] = Field(
        "none", description="Whether peers have to show a certificate that is trusted, besides."
    )


class WebSettings(Section):
    """Health, metrics, the API, and the sources that are part of the HTTP server. Everything but
    `/health/` needs a key: `caidx key create`."""

    host: str = "127.0.0.1"
    """Address to listen on. Beyond this host, set `tls`, or put a proxy in front that ends TLS."""
    port: int = Field(default=8080, ge=1, le=65535)
    """TCP port."""
    tls: WebTls | None = None
    """HTTPS; left out: HTTP."""
    trusted_proxies: Annotated[tuple[str, ...], AfterValidator(_checked_networks)] = ()
    """Networks or addresses of proxies in front of the hub. From these, and from nobody else,
    `X-Forwarded-Proto` and `X-Forwarded-For` are believed."""
    public_url: Annotated[str, AfterValidator(_checked_public_url)] = ""
    """How others reach this hub from outside, e.g. `https://caidx.hospital.example`; empty:
    `http(s)://host:port`."""

    @property
    def url(self) -> str:
        """How others reach this hub; without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "http" if self.tls is None else "https"
        return self.public_url or f"{scheme}://{host}:{self.port}"

    @property
    def exposure(self) -> str:
        """What is wrong with where the server listens; empty: nothing."""
        if self.tls is not None or self.trusted_proxies or _is_loopback(self.host):
            return ""
        return (
            f"the HTTP server listens on {self.host}:{self.port} without TLS: whoever can read the "
            "network can read keys and patient data. Set web.tls, or web.trusted_proxies where a "
            "proxy ends TLS"
        )
