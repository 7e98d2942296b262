"""The tables of orders, measured values, and the FHIR resources that are shown of reports."""

from __future__ import annotations

import sqlalchemy as sa

from hub.store.schema import UtcTime, metadata

orders = sa.Table(
    "orders",
    metadata,
    sa.Column("order_id", sa.String(32), primary_key=True),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(16), nullable=False),
    sa.Column("patient_id", sa.String(64), nullable=False, index=True),
    sa.Column("issuer_of_patient_id", sa.String(64), nullable=False),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("route", sa.String(64), nullable=False),
    sa.Column("content", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("reasons", sa.JSON, nullable=False),
    sa.Column("ordered_at", UtcTime, nullable=False),
    sa.Column("received_at", UtcTime, nullable=False),
    sa.Column("deadline_at", UtcTime),
    sa.Column("changed_at", UtcTime, nullable=False, index=True),
)
"""What somebody asked for (`hub.domain.order.Order`, whole in ``content``); ``state`` is an
`OrderState`."""

order_names = sa.Table(
    "order_names",
    metadata,
    sa.Column("order_id", sa.ForeignKey("orders.order_id"), primary_key=True),
    sa.Column("name_sha256", sa.String(64), primary_key=True, index=True),
    sa.Column("value_sha256", sa.String(64), nullable=False, index=True),
)
"""What an order is found by: its identifiers (``system|value``), those of what it is based on, and
the references of that; as SHA-256, because they are of any length. ``value_sha256``: of the value
of an identifier alone; empty for a reference."""

order_requests = sa.Table(
    "order_requests",
    metadata,
    sa.Column("order_id", sa.ForeignKey("orders.order_id"), primary_key=True),
    sa.Column("request_id", sa.String(32), primary_key=True, index=True),
)
"""Which requests answer an order: those that it led to (``requests.order_id``), and those that
stood already, because a rule or another order had asked the same."""

observations = sa.Table(
    "observations",
    metadata,
    sa.Column("observation_id", sa.String(32), primary_key=True),
    sa.Column("patient_id", sa.String(64), nullable=False),
    sa.Column("issuer_of_patient_id", sa.String(64), nullable=False),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("reference", sa.String(255), nullable=False, index=True),
    sa.Column("identifier_sha256", sa.String(64), nullable=False, index=True),
    sa.Column("content", sa.JSON, nullable=False),
    sa.Column("effective_at", UtcTime),
    sa.Column("received_at", UtcTime, nullable=False, index=True),
    sa.Column("replaced_at", UtcTime),
    sa.Index("ix_observations_patient", "patient_id", "issuer_of_patient_id"),
)
"""Measured values that sources sent (`hub.domain.observation.Observation`, whole in ``content``).
``identifier_sha256``: of the value of its business identifier, of any length, to find it by; empty
where it has none. ``replaced_at``: when the same resource came with other content."""

case_observations = sa.Table(
    "case_observations",
    metadata,
    sa.Column("study_instance_uid", sa.String(64), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("patient", sa.JSON, nullable=False),
    sa.Column("accession_number", sa.String(64), nullable=False),
    sa.Column("issuer_of_accession_number", sa.String(64), nullable=False),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("values", sa.JSON, nullable=False),
    sa.Column("ordered_at", UtcTime, nullable=False),
    sa.Column("purged_at", UtcTime),
)
"""The measured values of a case, as they were gathered for an order: what a model was asked about.
A case has rows in ``studies`` and ``study_revisions`` like a study, and no instances."""

fhir_resources = sa.Table(
    "fhir_resources",
    metadata,
    sa.Column("resource_type", sa.String(32), primary_key=True),
    sa.Column("resource_id", sa.String(64), primary_key=True),
    sa.Column("request_id", sa.ForeignKey("requests.request_id"), nullable=False, index=True),
)
"""In which report a FHIR resource of ours stands, for those who read it by its id."""
