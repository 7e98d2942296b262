"""Versions of reports, changes of patients, order and confirmation of deliveries, critical alerts."""

import sqlalchemy as sa
from alembic import op

from hub.store.schema import UtcTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "documents", sa.Column("version", sa.Integer(), nullable=False, server_default="1")
    )
    op.add_column(
        "documents", sa.Column("profile", sa.String(255), nullable=False, server_default="")
    )
    for name in ("accession_number", "issuer_of_accession_number"):
        op.add_column("studies", sa.Column(name, sa.String(64), nullable=False, server_default=""))
    op.create_index("ix_studies_accession_number", "studies", ["accession_number"])
    op.add_column(
        "deliveries", sa.Column("position", sa.Integer(), nullable=False, server_default="0")
    )
    op.add_column("requests", sa.Column("released", sa.JSON()))
    op.add_column("deliveries", sa.Column("awaiting", sa.Text()))
    op.add_column("deliveries", sa.Column("awaiting_since", UtcTime()))
    op.create_index(
        "ix_deliveries_line", "deliveries", ["study_instance_uid", "destination", "state"]
    )
    _report_versions()
    _patients_and_alerts()


def _report_versions() -> None:
    op.create_table(
        "report_versions",
        sa.Column("request_id", sa.String(32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("cause", sa.String(20), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("person", sa.JSON()),
        sa.Column("changes", sa.JSON()),
        sa.Column("actor", sa.String(160), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("made_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.request_id"], name="fk_report_versions_request_id_requests"
        ),
        sa.PrimaryKeyConstraint("request_id", "version", name="pk_report_versions"),
    )
    op.create_index("ix_report_versions_state", "report_versions", ["state"])


def _patients_and_alerts() -> None:
    op.create_table(
        "patient_changes",
        sa.Column("change_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("patient_id", sa.String(64), nullable=False),
        sa.Column("issuer_of_patient_id", sa.String(64), nullable=False),
        sa.Column("current", sa.JSON(), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("received_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("change_id", name="pk_patient_changes"),
    )
    op.create_index("ix_patient_changes_patient_id", "patient_changes", ["patient_id"])
    op.create_index("ix_patient_changes_received_at", "patient_changes", ["received_at"])
    op.create_table(
        "commitment_reports",
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("committed", sa.JSON(), nullable=False),
        sa.Column("failed", sa.JSON(), nullable=False),
        sa.Column("received_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("transaction_uid", name="pk_commitment_reports"),
    )
    op.create_index("ix_commitment_reports_received_at", "commitment_reports", ["received_at"])
    op.create_table(
        "critical_alerts",
        sa.Column("request_id", sa.String(32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("route", sa.String(64), nullable=False),
        sa.Column("raised_at", UtcTime(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.request_id"], name="fk_critical_alerts_request_id_requests"
        ),
        sa.PrimaryKeyConstraint("request_id", "version", name="pk_critical_alerts"),
    )
    op.create_index("ix_critical_alerts_route", "critical_alerts", ["route", "raised_at"])
    op.create_table(
        "destination_pace",
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("next_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("destination", name="pk_destination_pace"),
    )


def downgrade() -> None:
    raise RuntimeError("restore a backup instead")
