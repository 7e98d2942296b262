"""Webhooks: results posted to a program of somebody else, signed (Standard Webhooks)."""

from __future__ import annotations

from connectors.webhook.config import KINDS, WebhookDestinationConfig
from hub.domain.delivery import DocumentKind
from hub.ports import Connector, at_first_call

CONNECTOR = Connector(
    destination_config=WebhookDestinationConfig,
    build_destination=at_first_call("connectors.webhook.destination:build_destination"),
    accepts=KINDS,
    sends=(DocumentKind.NOTICE,),
)

__all__ = ["CONNECTOR"]
