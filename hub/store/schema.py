"""The hub's tables (SQLAlchemy Core), the same on SQLite and PostgreSQL.

Migrations in ``migrations/`` make them; a test compares the two. Bytes are not here: images
lie in segments (``objects``), encoded results as files (``documents``).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(at: datetime) -> int:
    """Since 1970, UTC: how a moment is kept."""
    return (at - _EPOCH) // timedelta(microseconds=1)


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC, kept as microseconds since 1970 so that both databases compare it alike."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else microseconds(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else _EPOCH + timedelta(microseconds=int(value))


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    }
)

associations = sa.Table(
    "associations",
    metadata,
    sa.Column("association_id", sa.String(36), primary_key=True),
    sa.Column("receiver_id", sa.String(160), nullable=False),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("calling_ae_title", sa.String(64), nullable=False),
    sa.Column("called_ae_title", sa.String(64), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("opened_at", UtcTime, nullable=False),
    sa.Column("closed_at", UtcTime),
    sa.Column("end", sa.String(16)),
    sa.Index("ix_associations_open", "receiver_id", "closed_at"),
)
"""Every transfer: a DICOM association, a STOW request, a drop of files."""

association_studies = sa.Table(
    "association_studies",
    metadata,
    sa.Column("association_id", sa.ForeignKey("associations.association_id"), primary_key=True),
    sa.Column("study_instance_uid", sa.String(64), primary_key=True, index=True),
    sa.Column("duplicates", sa.Integer, nullable=False, server_default="0"),
)
"""Which studies a transfer carried, and how many of its objects were there already."""

segments = sa.Table(
    "segments",
    metadata,
    sa.Column("segment", sa.String(128), primary_key=True),
    sa.Column("association_id", sa.String(36), nullable=False, index=True),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("indexed_to", sa.BigInteger, nullable=False),
    sa.Column("opened_at", UtcTime, nullable=False),
)
"""What of each segment is indexed. ``state``: open; sealed, nothing is added any more; released,
nothing in it is needed: it is to be overwritten. ``indexed_to`` is the offset of the first record
that is not indexed yet."""

instances = sa.Table(
    "instances",
    metadata,
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("study_instance_uid", sa.String(64), nullable=False),
    sa.Column("series_instance_uid", sa.String(64), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("association_id", sa.String(36), nullable=False),
    sa.Column("segment", sa.String(128), nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("received_at", UtcTime, nullable=False),
    sa.Column("header", sa.JSON, nullable=False),
    sa.Index("ix_instances_study", "study_instance_uid", "state"),
)
"""Every stored object. ``state``: current, or conflict (same UID, other bytes). ``revision`` of its
study is the first one that it belongs to."""

sa.Index(
    "ux_instances_current",
    instances.c.sop_instance_uid,
    unique=True,
    sqlite_where=instances.c.state == "current",
    postgresql_where=instances.c.state == "current",
)

studies = sa.Table(
    "studies",
    metadata,
    sa.Column("study_instance_uid", sa.String(64), primary_key=True),
    sa.Column("patient_id", sa.String(64), nullable=False),
    sa.Column("issuer_of_patient_id", sa.String(64), nullable=False),
    sa.Column("first_received_at", UtcTime, nullable=False, index=True),
    sa.Column("problems", sa.JSON, nullable=False),
    sa.Column("legal_hold", sa.Text),
    sa.Column("purged_at", UtcTime),
    sa.Column("accession_number", sa.String(64), nullable=False, server_default="", index=True),
    sa.Column("issuer_of_accession_number", sa.String(64), nullable=False, server_default=""),
)
"""``legal_hold`` is why nothing of it may be deleted, and on whose word; null: it may.
``purged_at`` is when its images were deleted; null again when new ones come."""

expectations = sa.Table(
    "expectations",
    metadata,
    sa.Column("study_instance_uid", sa.String(64), primary_key=True),
    sa.Column("source", sa.String(32), primary_key=True),
    sa.Column("number_of_instances", sa.Integer),
    sa.Column("sop_instance_uids", sa.JSON, nullable=False),
    sa.Column("series", sa.JSON, nullable=False),
    sa.Column("learned_at", UtcTime, nullable=False),
)
"""What a study will consist of, by who says so (hub.ports.ExpectationSource); it may be known
before the first image. ``series``: [series UID, [SOP Instance UID, ...]] of each series whose
instances are named."""

fetches = sa.Table(
    "fetches",
    metadata,
    sa.Column("fetch_id", sa.String(64), primary_key=True),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("request_id", sa.String(32), index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("archive", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("wanted", sa.JSON, nullable=False),
    sa.Column("found", sa.JSON, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("asked_at", UtcTime, nullable=False),
    sa.Column("deadline_at", UtcTime, nullable=False),
    sa.Column("finished_at", UtcTime),
)
"""What the hub asked an archive for. ``kind``: study, missing, prior. ``state``: running, done,
nothing-found, failed, timed-out."""

storage_commitments = sa.Table(
    "storage_commitments",
    metadata,
    sa.Column("transaction_uid", sa.String(64), primary_key=True),
    sa.Column("calling_ae_title", sa.String(64), primary_key=True),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("references", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("requested_at", UtcTime, nullable=False),
    sa.Column("next_attempt_at", UtcTime),
    sa.Column("reported_at", UtcTime),
)
"""Questions of storage commitment (PS3.4 annex J). ``state``: asked, reported, unreachable."""

procedure_steps = sa.Table(
    "procedure_steps",
    metadata,
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("performed_series", sa.JSON, nullable=False),
    sa.Column("changed_at", UtcTime, nullable=False),
)
"""Modality Performed Procedure Steps (PS3.4 annex F): status and what they made, as
``expectations.series``."""

study_revisions = sa.Table(
    "study_revisions",
    metadata,
    sa.Column("study_instance_uid", sa.ForeignKey("studies.study_instance_uid"), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("due_at", UtcTime, nullable=False),
    sa.Column("evidence", sa.String(32), nullable=False),
    sa.Column("expected_instances", sa.Integer),
    sa.Column("received_instances", sa.Integer, nullable=False),
    sa.Column("last_received_at", UtcTime, nullable=False),
    sa.Column("completed_at", UtcTime),
    sa.Column("scope", sa.String(16), nullable=False, server_default="study"),
    sa.Column("complete_series", sa.JSON),
    sa.Column("asked_archive_at", UtcTime),
    sa.Index("ix_study_revisions_due", "state", "due_at"),
)
"""``scope``: study; series: closed early for the routes that start with a complete series, and
``complete_series`` says which are and why.
``state``: receiving, complete, routed. ``due_at`` is when the evidence makes it complete."""

route_decisions = sa.Table(
    "route_decisions",
    metadata,
    sa.Column("study_instance_uid", sa.String(64), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("route", sa.String(64), primary_key=True),
    sa.Column("decision", sa.String(16), nullable=False),
    sa.Column("reasons", sa.JSON, nullable=False),
    sa.Column("decided_at", UtcTime, nullable=False),
)
"""Why AI was, or was not, run: one row per route and revision (match, no-match,
incomplete, suspended, rule-error)."""

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("request_id", sa.String(32), primary_key=True),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("route", sa.String(64), nullable=False),
    sa.Column("mode", sa.String(16), nullable=False),
    sa.Column("model_id", sa.String(64), nullable=False),
    sa.Column("model_version", sa.String(64), nullable=False),
    sa.Column("model_sha256", sa.String(64), nullable=False),
    sa.Column("queue", sa.String(64), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("series", sa.JSON, nullable=False),
    sa.Column("deliver_to", sa.JSON, nullable=False),
    sa.Column("reasons", sa.JSON, nullable=False),
    sa.Column("input_sha256", sa.String(64), nullable=False, server_default=""),
    sa.Column("priors", sa.JSON),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("started_at", UtcTime),
    sa.Column("finished_at", UtcTime),
    sa.Column("released", sa.JSON),
    sa.Column("order_id", sa.String(32), nullable=False, server_default="", index=True),
    sa.Column("deadline_at", UtcTime),
    sa.Column("images_retrieved_at", UtcTime),
)
"""One question to one model. ``input_sha256`` is a digest of the instances that were selected:
the same input is not asked about again. ``priors``: what was found of the prior examinations that
the model wants, or why not. ``state``: queued, running, waiting, retrying, done, failed,
quarantined, discarded. ``released``: who released it from quarantine, why and when; null: nobody
had to. ``order_id``: of the order that asked for it; empty: a rule did. ``deadline_at``: after this
moment nobody waits for the answer. ``images_retrieved_at``: when its vendor first fetched its
images."""

results = sa.Table(
    "results",
    metadata,
    sa.Column("request_id", sa.ForeignKey("requests.request_id"), primary_key=True),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("findings", sa.JSON, nullable=False),
    sa.Column("reasons", sa.JSON, nullable=False),
    sa.Column("warnings", sa.JSON, nullable=False),
    sa.Column("timings", sa.JSON, nullable=False),
    sa.Column("made_at", UtcTime, nullable=False),
)

documents = sa.Table(
    "documents",
    metadata,
    sa.Column("document_id", sa.String(64), primary_key=True),
    sa.Column("request_id", sa.ForeignKey("requests.request_id"), nullable=False, index=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("identity", sa.JSON, nullable=False),
    sa.Column("related_uids", sa.JSON, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("purged_at", UtcTime),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.Column("profile", sa.String(255), nullable=False, server_default=""),
    sa.Column("patient_id", sa.String(64), nullable=False, server_default="", index=True),
    sa.Column("accession_number", sa.String(64), nullable=False, server_default="", index=True),
)
"""Encoded results; the bytes are the file of that SHA-256 in the document store, until they were
deleted (``purged_at``). ``version`` of the report; ``profile``: the DICOM documents that the same
destinations get (`hub.formats.encoding.EncodingContext.profile`). ``patient_id`` and
``accession_number`` are those of ``identity``, to find it by."""

report_versions = sa.Table(
    "report_versions",
    metadata,
    sa.Column("request_id", sa.ForeignKey("requests.request_id"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("cause", sa.String(20), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("person", sa.JSON),
    sa.Column("changes", sa.JSON),
    sa.Column("actor", sa.String(160), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("made_at", UtcTime, nullable=False),
)
"""Every version of the report of a request (`hub.domain.report.ReportVersion`). ``state``: asked
for, or made: its documents stand in ``documents``. ``changes``: the findings as a person changed
them."""

patient_changes = sa.Table(
    "patient_changes",
    metadata,
    sa.Column("change_id", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("patient_id", sa.String(64), nullable=False, index=True),
    sa.Column("issuer_of_patient_id", sa.String(64), nullable=False),
    sa.Column("current", sa.JSON, nullable=False),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("received_at", UtcTime, nullable=False, index=True),
)
"""What became of patients (`hub.domain.patient.PatientChange`)."""

commitment_reports = sa.Table(
    "commitment_reports",
    metadata,
    sa.Column("transaction_uid", sa.String(64), primary_key=True),
    sa.Column("committed", sa.JSON, nullable=False),
    sa.Column("failed", sa.JSON, nullable=False),
    sa.Column("received_at", UtcTime, nullable=False, index=True),
)
"""What archives said to storage commitments that destinations asked for
(`hub.ports.CommitmentReport`)."""

critical_alerts = sa.Table(
    "critical_alerts",
    metadata,
    sa.Column("request_id", sa.ForeignKey("requests.request_id"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("route", sa.String(64), nullable=False),
    sa.Column("raised_at", UtcTime, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Index("ix_critical_alerts_route", "route", "raised_at"),
)
"""Every report with a critical finding. ``state``: sent, as an alert of its own; held, because its
route had raised too many: one escalation stands for them; escalated: held, too, and the one that
the escalation was sent for."""

destination_pace = sa.Table(
    "destination_pace",
    metadata,
    sa.Column("destination", sa.String(64), primary_key=True),
    sa.Column("next_at", UtcTime, nullable=False),
)
"""When the next document may be sent to a destination that has a rate."""

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("delivery_id", sa.String(36), primary_key=True),
    sa.Column("document_id", sa.ForeignKey("documents.document_id"), nullable=False, index=True),
    sa.Column("request_id", sa.String(32), nullable=False, index=True),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("destination", sa.String(64), nullable=False),
    sa.Column("queue", sa.String(64), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("next_attempt_at", UtcTime),
    sa.Column("delivered_at", UtcTime),
    sa.Column("position", sa.Integer, nullable=False, server_default="0"),
    sa.Column("awaiting", sa.Text),
    sa.Column("awaiting_since", UtcTime),
    sa.Index("ix_deliveries_line", "study_instance_uid", "destination", "state"),
)
"""One document on its way to one destination; ``round`` counts resends by a person. What goes to
the same destination of the same study goes in the order of (``created_at``, ``position``).
``awaiting``: taken, and what to ask by whether it is kept."""

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("alert_id", sa.String(36), primary_key=True),
    sa.Column("raised_at", UtcTime, nullable=False, index=True),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("entity", sa.String(160), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
)
"""What a person has to look at. Identifiers are deterministic, so an alert is raised once."""

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("executor_id", sa.String(160), primary_key=True),
    sa.Column("host_identity", sa.String(160), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_started", sa.String(32), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("started_at", UtcTime, nullable=False),
    sa.Column("heartbeat_at", UtcTime, nullable=False),
    sa.Column("gone_at", UtcTime),
    sa.Column("health", sa.JSON, nullable=False),
)
"""Every process that holds work; a dead one's work is taken over."""

claims = sa.Table(
    "claims",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(160), nullable=False),
    sa.Column("until", UtcTime, nullable=False),
)
"""Work that only one process does at a time, and who does it until when."""

audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("actor", sa.String(160), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("entity", sa.String(160), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("previous_hash", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
"""Append-only (triggers refuse UPDATE and DELETE); each row carries the hash of the one before."""

audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
"""The last link, kept apart so that rows cut off the end are noticed; its lock orders writers."""
