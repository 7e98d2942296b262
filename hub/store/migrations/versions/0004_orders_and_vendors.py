"""Orders and measured values, answers that come later, registered models, keys."""

import sqlalchemy as sa
from alembic import op

from hub.store.schema import UtcTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("requests", sa.Column("order_id", sa.String(32), nullable=False, server_default=""))
    op.add_column("requests", sa.Column("deadline_at", UtcTime()))
    op.add_column("requests", sa.Column("images_retrieved_at", UtcTime()))
    op.create_index("ix_requests_order_id", "requests", ["order_id"])
    _found_by_patient()
    _orders()
    _values()
    _vendors()


def _found_by_patient() -> None:
    for name in ("patient_id", "accession_number"):
        op.add_column("documents", sa.Column(name, sa.String(64), nullable=False, server_default=""))
        op.create_index(f"ix_documents_{name}", "documents", [name])
    identity = sa.column("identity", sa.JSON())
    documents = sa.table("documents", identity, sa.column("patient_id"), sa.column("accession_number"))
    told = {"patient_id": ("patient", "patient_id"), "accession_number": ("accession_number",)}
    values = {name: sa.func.coalesce(identity[path].as_string(), "") for name, path in told.items()}
    op.execute(sa.update(documents).values(values))


def _orders() -> None:
    op.create_table(
        "orders",
        sa.Column("order_id", sa.String(32), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(16), nullable=False),
        sa.Column("patient_id", sa.String(64), nullable=False),
        sa.Column("issuer_of_patient_id", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("route", sa.String(64), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("ordered_at", UtcTime(), nullable=False),
        sa.Column("received_at", UtcTime(), nullable=False),
        sa.Column("deadline_at", UtcTime()),
        sa.Column("changed_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("order_id", name="pk_orders"),
    )
    op.create_index("ix_orders_changed_at", "orders", ["changed_at"])
    op.create_index("ix_orders_patient_id", "orders", ["patient_id"])
    op.create_index("ix_orders_state", "orders", ["state"])
    op.create_index("ix_orders_study_instance_uid", "orders", ["study_instance_uid"])
    op.create_table(
        "order_names",
        sa.Column("order_id", sa.String(32), nullable=False),
        sa.Column("name_sha256", sa.String(64), nullable=False),
        sa.Column("value_sha256", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["orders.order_id"], name="fk_order_names_order_id_orders"),
        sa.PrimaryKeyConstraint("order_id", "name_sha256", name="pk_order_names"),
    )
    op.create_index("ix_order_names_name_sha256", "order_names", ["name_sha256"])
    op.create_index("ix_order_names_value_sha256", "order_names", ["value_sha256"])
    op.create_table(
        "order_requests",
        sa.Column("order_id", sa.String(32), nullable=False),
        sa.Column("request_id", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["orders.order_id"], name="fk_order_requests_order_id_orders"),
        sa.PrimaryKeyConstraint("order_id", "request_id", name="pk_order_requests"),
    )
    op.create_index("ix_order_requests_request_id", "order_requests", ["request_id"])


def _values() -> None:
    op.create_table(
        "observations",
        sa.Column("observation_id", sa.String(32), nullable=False),
        sa.Column("patient_id", sa.String(64), nullable=False),
        sa.Column("issuer_of_patient_id", sa.String(64), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("reference", sa.String(255), nullable=False),
        sa.Column("identifier_sha256", sa.String(64), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("effective_at", UtcTime()),
        sa.Column("received_at", UtcTime(), nullable=False),
        sa.Column("replaced_at", UtcTime()),
        sa.PrimaryKeyConstraint("observation_id", name="pk_observations"),
    )
    op.create_index("ix_observations_identifier_sha256", "observations", ["identifier_sha256"])
    op.create_index("ix_observations_patient", "observations", ["patient_id", "issuer_of_patient_id"])
    op.create_index("ix_observations_received_at", "observations", ["received_at"])
    op.create_index("ix_observations_reference", "observations", ["reference"])
    op.create_table(
        "case_observations",
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("patient", sa.JSON(), nullable=False),
        sa.Column("accession_number", sa.String(64), nullable=False),
        sa.Column("issuer_of_accession_number", sa.String(64), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("ordered_at", UtcTime(), nullable=False),
        sa.Column("purged_at", UtcTime()),
        sa.PrimaryKeyConstraint("study_instance_uid", "revision", name="pk_case_observations"),
    )
    op.create_table(
        "fhir_resources",
        sa.Column("resource_type", sa.String(32), nullable=False),
        sa.Column("resource_id", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["request_id"], ["requests.request_id"], name="fk_fhir_resources_request_id_requests"),
        sa.PrimaryKeyConstraint("resource_type", "resource_id", name="pk_fhir_resources"),
    )
    op.create_index("ix_fhir_resources_request_id", "fhir_resources", ["request_id"])


def _vendors() -> None:
    op.create_table(
        "registrations",
        sa.Column("model_id", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("vendor", sa.String(255), nullable=False),
        sa.Column("runtime_kind", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("registered_by", sa.String(160), nullable=False),
        sa.Column("registered_at", UtcTime(), nullable=False),
        sa.Column("changed_by", sa.String(160), nullable=False),
        sa.Column("changed_at", UtcTime(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model_id", "sha256", name="pk_registrations"),
    )
    op.create_index("ix_registrations_state", "registrations", ["state"])
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("vendor", sa.String(255), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("created_by", sa.String(160), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("expires_at", UtcTime()),
        sa.Column("last_used_at", UtcTime()),
        sa.Column("revoked_at", UtcTime()),
        sa.Column("revoked_by", sa.String(160)),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
    )
    op.create_table(
        "deferred_answers",
        sa.Column("request_id", sa.String(32), nullable=False),
        sa.Column("job_reference", sa.String(255), nullable=False),
        sa.Column("asked_at", UtcTime(), nullable=False),
        sa.Column("not_before", UtcTime(), nullable=False),
        sa.Column("questions", sa.Integer(), nullable=False),
        sa.Column("answer", sa.LargeBinary()),
        sa.Column("answered_at", UtcTime()),
        sa.ForeignKeyConstraint(["request_id"], ["requests.request_id"], name="fk_deferred_answers_request_id_requests"),
        sa.PrimaryKeyConstraint("request_id", name="pk_deferred_answers"),
    )
    op.create_table(
        "callbacks",
        sa.Column("message_id", sa.String(255), nullable=False),
        sa.Column("request_id", sa.String(32), nullable=False),
        sa.Column("received_at", UtcTime(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name="pk_callbacks"),
    )
    op.create_index("ix_callbacks_received_at", "callbacks", ["received_at"])
    op.create_index("ix_callbacks_request_id", "callbacks", ["request_id"])


def downgrade() -> None:
    raise RuntimeError("restore a backup instead")
