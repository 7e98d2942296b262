"""Whether a message that came to a callback is from the vendor that was asked."""

from __future__ import annotations

from collections.abc import Mapping

from hub.domain.model_runtime import VendorHttpRuntime
from hub.errors import RejectedError
from hub.ports import Clock, ModelPackage
from hub.transport.webhook_signature import verified
from model_adapters.vendor_http.config import VendorHttpConfig


class Callbacks:
    """`hub.ports.CallbackVerifier`: Standard Webhooks, by the secrets of the vendor's service."""

    def __init__(self, config: VendorHttpConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock

    def __call__(self, package: ModelPackage, headers: Mapping[str, str], body: bytes) -> str:
        """See `hub.ports.CallbackVerifier`. Identifiers are those of one service: another vendor's
        may be the same."""
        runtime = package.card.runtime
        service = (
            self._config.service_of(runtime.url, package.card.vendor.name)
            if isinstance(runtime, VendorHttpRuntime)
            else None
        )
        try:
            keys = () if service is None else service.keys
        except ValueError:  # nobody can have signed with what is no secret
            keys = ()
        if service is None or not keys:
            raise RejectedError("no signature is right")
        return f"{service.url} {verified(headers, body, keys, self._clock.now())}"
