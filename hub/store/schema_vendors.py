"""The tables of models that others bring: registrations, keys, answers that come later."""

from __future__ import annotations

import sqlalchemy as sa

from hub.store.schema import UtcTime, metadata

registrations = sa.Table(
    "registrations",
    metadata,
    sa.Column("model_id", sa.String(64), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("vendor", sa.String(255), nullable=False),
    sa.Column("runtime_kind", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("registered_by", sa.String(160), nullable=False),
    sa.Column("registered_at", UtcTime, nullable=False),
    sa.Column("changed_by", sa.String(160), nullable=False),
    sa.Column("changed_at", UtcTime, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
"""Registered models (`hub.domain.registration`); the package lies in the data directory under its
digest. A model of the configuration gets a row when it is suspended."""

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("scope", sa.String(16), nullable=False),
    sa.Column("vendor", sa.String(255), nullable=False),
    sa.Column("secret_sha256", sa.String(64), nullable=False),
    sa.Column("created_by", sa.String(160), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("expires_at", UtcTime),
    sa.Column("last_used_at", UtcTime),
    sa.Column("revoked_at", UtcTime),
    sa.Column("revoked_by", sa.String(160)),
)
"""Keys to the hub's doors: ``caidx_<key_id>_<secret>``, of which the secret (256 random bits) is
kept only as its SHA-256."""

deferred_answers = sa.Table(
    "deferred_answers",
    metadata,
    sa.Column("request_id", sa.ForeignKey("requests.request_id"), primary_key=True),
    sa.Column("job_reference", sa.String(255), nullable=False),
    sa.Column("asked_at", UtcTime, nullable=False),
    sa.Column("not_before", UtcTime, nullable=False),
    sa.Column("questions", sa.Integer, nullable=False),
    sa.Column("answer", sa.LargeBinary),
    sa.Column("answered_at", UtcTime),
)
"""A request whose model answers later: the vendor's job, how often it was asked after, and what
came to the callback. Gone when the request has ended."""

callbacks = sa.Table(
    "callbacks",
    metadata,
    sa.Column("message_id", sa.String(255), primary_key=True),
    sa.Column("request_id", sa.String(32), nullable=False, index=True),
    sa.Column("received_at", UtcTime, nullable=False, index=True),
    sa.Column("sha256", sa.String(64), nullable=False),
)
"""Messages from vendors that were taken: each once. ``message_id``: SHA-256 of what the vendor's
service called it; ``sha256``: of its body."""
