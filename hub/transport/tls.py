"""TLS by BCP 195 (RFC 8996, RFC 9325; DICOM: PS3.15 B.12 and B.13): versions 1.2 and 1.3,
forward secrecy and authenticated encryption only."""

from __future__ import annotations

import ssl
from pathlib import Path

from pydantic import SecretStr

from hub.errors import ConfigError, ConfigProblem
from hub.transport.tls_config import TlsClientConfig, TlsServerConfig

_TLS_1_2_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
"""RFC 9325 4.2, and ChaCha20 from RFC 7905; those of TLS 1.3 are all good."""
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CLIENT_CERTIFICATES = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


def server_context(config: TlsServerConfig, field: str) -> ssl.SSLContext:
    """For whoever listens.

    Args:
        config: see there.
        field: where it stands in the configuration, for messages.

    Raises:
        ConfigError: certificate, key or authorities cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, config.minimum)
    context.verify_mode = _CLIENT_CERTIFICATES[config.client_certificates]
    if config.client_certificates != "none" and config.trusted is None:
        raise _problem(f"{field}.trusted", "is needed to check client certificates")
    _load_identity(
        context, config.certificate, config.private_key, config.private_key_password, field
    )
    _load_trusted(context, config.trusted, field)
    return context


def client_context(config: TlsClientConfig, field: str = "tls") -> ssl.SSLContext:
    """For whoever connects; arguments and errors as of ``server_context``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, config.minimum)
    context.check_hostname = config.verify_host
    if config.certificate is not None:
        key = config.private_key or config.certificate
        _load_identity(context, config.certificate, key, config.private_key_password, field)
    if config.trusted is None:
        context.load_default_certs()
    _load_trusted(context, config.trusted, field)
    return context


def must_be_usable(config: TlsClientConfig | None, field: str = "tls") -> None:
    """Find mistakes before the first association; arguments and errors as of
    ``server_context``."""
    if config is not None:
        client_context(config, field)


def _harden(context: ssl.SSLContext, minimum: str) -> None:
    context.minimum_version = _VERSIONS[minimum]
    context.set_ciphers(_TLS_1_2_CIPHERS)
    # Both have been used in attacks (RFC 9325 3.3, 3.5).
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _load_identity(
    context: ssl.SSLContext, certificate: Path, key: Path, password: SecretStr | None, field: str
) -> None:
    # Without a password OpenSSL would ask the terminal for it.
    secret = "" if password is None else password.get_secret_value()
    try:
        context.load_cert_chain(certificate, key, secret)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise _problem(f"{field}.certificate", f"cannot be used: {_reason(error)}") from error


def _load_trusted(context: ssl.SSLContext, trusted: Path | None, field: str) -> None:
    if trusted is None:
        return
    try:
        context.load_verify_locations(trusted)
    except (OSError, ValueError) as error:
        raise _problem(f"{field}.trusted", f"cannot be used: {_reason(error)}") from error


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not a PEM file"
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _problem(field: str, message: str) -> ConfigError:
    return ConfigError((ConfigProblem("configuration", 0, field, message),))
