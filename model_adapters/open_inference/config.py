"""Configuration of the adapter for servers of the Open Inference Protocol."""

from __future__ import annotations

from typing import Self
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import Field, model_validator

from hub.transport.http_config import HttpPeerConfig
from hub.transport.oauth2_config import is_private
from model_adapters.tensors.config import WorkerConfig

_PORTS = {"http": 80, "https": 443}


class ServerConfig(HttpPeerConfig):
    """An inference server, and who we are to it. It counts for the models whose `runtime.url` is
    its `url` or lies below it; of several the longest. Whatever a manifest says, only servers that
    stand here get credentials, or are called at an address that is not public although
    `outbound.private_networks` does not name it."""

    vendor: str = ""
    """Only models of this vendor (`vendor.name` of their manifests) are asked for here: else
    another vendor could name this server in a manifest of its own. Empty: models of whichever
    vendor."""
    allow_http: bool = False
    """Ask without TLS on another machine: only where nobody else can read on the network, because
    the tensors are made of patients' images."""

    @model_validator(mode="after")
    def _nobody_reads_it(self) -> Self:
        if not is_private(self.url) and not self.allow_http:
            raise ValueError("url must be https, or allow_http be set")
        return self


class OpenInferenceConfig(WorkerConfig):
    """The worker processes that read images and ask inference servers."""

    servers: tuple[ServerConfig, ...] = ()
    """Servers that need credentials, or are in the hospital's own network."""
    read_timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest time to read and decode the input of one request; the manifest's
    `runtime.timeout_seconds` is for the exchange with the server alone."""
    answer_limit_mb: int = Field(default=1024, ge=1, le=65536)
    """Longest answer of a server, in MiB."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        urls = [server.url for server in self.servers]
        if len(set(urls)) != len(urls):
            raise ValueError("servers: two have the same url")
        return self


def server_for(url: str, servers: tuple[ServerConfig, ...]) -> ServerConfig | None:
    """The configured server that a manifest's URL belongs to; None: no operator named it."""
    wanted = urlsplit(url)
    matching = [one for one in servers if _is_below(wanted, urlsplit(one.url))]
    return max(matching, key=lambda one: len(one.url), default=None)


def origin_of(url: str) -> str:
    """Scheme, host and port: what people call the server."""
    scheme, host, port = _origin(urlsplit(url))
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + ("" if port == _PORTS.get(scheme) else f":{port}")


def _is_below(url: SplitResult, base: SplitResult) -> bool:
    path, prefix = url.path.rstrip("/") + "/", base.path.rstrip("/") + "/"
    if any(unquote(part) in (".", "..") for part in path.split("/")):
        return False  # it leads elsewhere than it looks
    return _origin(url) == _origin(base) and path.startswith(prefix)


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    port = parts.port or _PORTS.get(parts.scheme, 0)
    return parts.scheme.lower(), (parts.hostname or "").lower(), port
