"""An MLLP listener for an ADT feed: what became of patients goes to the hub's knowledge.

A message is acknowledged when the change is durably recorded, and not before. The same message
again is the same change.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from connectors.hl7v2.config import Hl7v2SourceConfig
from connectors.hl7v2.conversation import Conversation, Limits
from connectors.hl7v2.listener import Admission, Listener
from hub.errors import CaidxError, ConfigError, ConfigProblem, TransientError
from hub.formats.hl7v2.message import (
    CHARACTER_SETS,
    REQUIRED_FIELD_MISSING,
    UNSUPPORTED_PROCESSING_ID,
    UNSUPPORTED_VERSION,
    Message,
    MessageError,
    read_message,
)
from hub.formats.hl7v2.patient import IdentifierRules, patient_changes
from hub.ports import Health, HealthState, SourceContext, at_first_call

if TYPE_CHECKING:
    import ssl  # loaded only where TLS is configured

_CANNOT_EVER_LISTEN = frozenset({errno.EACCES, errno.EADDRNOTAVAIL})
_server_context = at_first_call("hub.transport.tls:server_context")


class Hl7v2Source:
    """`hub.ports.Source` for MLLP connections.

    Raises:
        ConfigError: the character set is none of table 0211.
    """

    def __init__(self, config: Hl7v2SourceConfig, context: SourceContext) -> None:
        self._config = config
        self._context = context
        self._rules = IdentifierRules(config.identifier_types, config.assigning_authorities)
        self._listener: Listener | None = None
        self._health = Health(HealthState.STOPPED, "not started", context.clock.now())
        if config.character_set.upper() not in CHARACTER_SETS:
            known = ", ".join(CHARACTER_SETS)
            raise self._problem("character_set", f"is none of {known}")

    def start(self) -> None:
        """Listen (see hub.ports.Source)."""
        config = self._config
        listener = Listener(
            f"hl7v2-{self._context.name}",
            Admission(
                config.allowed_addresses,
                config.rejects_all,
                config.maximum_connections,
                config.maximum_connections_per_address,
            ),
            config.message_timeout,
            self._converse,
            self._tls(),
        )
        try:
            listener.listen(config.host, config.port)
        except OSError as error:
            raise self._cannot_listen(error) from error
        self._listener = listener
        if config.rejects_all:
            detail = "no sender is listed, so all are rejected: name them in allowed_addresses, "
            detail += "ask for certificates by TLS, or set unknown_senders"
            self._set_health(HealthState.DEGRADED, detail)
        else:
            self._set_health(HealthState.HEALTHY, f"listening on {config.host}:{config.port}")

    def stop(self) -> None:
        """Stop accepting; messages that have arrived get ``stop_grace`` seconds."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.stop(self._config.stop_grace)
        self._set_health(HealthState.STOPPED, "stopped")

    def health(self) -> Health:
        return self._health

    def take(self, content: bytes) -> None:
        """Take one message; when this returns, what it says is durably recorded.

        Raises:
            RejectedError: it is not one of those that are taken.
            TransientError: it could not be recorded now.
        """
        message = read_message(content, self._config.character_set.upper())
        self._check(message)
        if message.message_type in self._config.passed_over:
            return
        now = self._context.clock.now()
        for change in patient_changes(message, self._rules, self._context.name, now):
            self._context.knowledge.patient_changed(change)

    def _check(self, message: Message) -> None:
        header, config = message.header, self._config
        if not header.text(10):
            raise MessageError("there is no control ID", REQUIRED_FIELD_MISSING, "MSH^1^10")
        if not header.text(12).startswith("2."):
            raise MessageError("not version 2", UNSUPPORTED_VERSION, "MSH^1^12")
        if header.text(11) not in config.processing_ids:
            text = "this processing ID is not taken"
            raise MessageError(text, UNSUPPORTED_PROCESSING_ID, "MSH^1^11")
        if config.sending_applications and header.text(3) not in config.sending_applications:
            raise MessageError("unknown sending application", "103", "MSH^1^3")

    def _converse(self, connection: socket.socket, address: str) -> Conversation:
        config = self._config
        limits = Limits(config.maximum_message_size, config.idle_timeout, config.message_timeout)
        return Conversation(connection, address, self.take, limits, self._context.clock)

    def _tls(self) -> ssl.SSLContext | None:
        if self._config.tls is None:
            return None
        # Loaded only here: the receiver starts sooner without it.
        context: ssl.SSLContext = _server_context(
            self._config.tls, f"sources.{self._context.name}.tls"
        )
        return context

    def _set_health(self, state: HealthState, detail: str) -> None:
        self._health = Health(state, detail, self._context.clock.now())

    def _cannot_listen(self, error: OSError) -> CaidxError:
        message = f"cannot listen on {self._config.host}:{self._config.port}: {error.strerror}"
        self._set_health(HealthState.FAILED, message)
        if error.errno in _CANNOT_EVER_LISTEN or isinstance(error, socket.gaierror):
            return self._problem("", message)
        return TransientError(message)

    def _problem(self, field: str, message: str) -> ConfigError:
        place = ".".join(part for part in ("sources", self._context.name, field) if part)
        return ConfigError((ConfigProblem("configuration", 0, place, message),))


def build_source(config: Hl7v2SourceConfig, context: SourceContext) -> Hl7v2Source:
    """`hub.ports.Connector.build_source`."""
    return Hl7v2Source(config, context)
