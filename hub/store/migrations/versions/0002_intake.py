"""Segments as the log; expectations, fetches, storage commitment, procedure steps, retention."""

import sqlalchemy as sa
from alembic import op

from hub.errors import IntegrityError
from hub.store.schema import UtcTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _must_be_empty()
    op.create_table(
        "segments",
        sa.Column("segment", sa.String(128), nullable=False),
        sa.Column("association_id", sa.String(36), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("indexed_to", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("segment", name="pk_segments"),
    )
    op.create_index("ix_segments_association_id", "segments", ["association_id"])
    op.create_index("ix_segments_study_instance_uid", "segments", ["study_instance_uid"])
    op.create_index("ix_segments_state", "segments", ["state"])
    op.create_table(
        "expectations",
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("number_of_instances", sa.Integer(), nullable=True),
        sa.Column("sop_instance_uids", sa.JSON(), nullable=False),
        sa.Column("series", sa.JSON(), nullable=False),
        sa.Column("learned_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", "source", name="pk_expectations"),
    )
    op.create_table(
        "fetches",
        sa.Column("fetch_id", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.String(32), nullable=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("archive", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("wanted", sa.JSON(), nullable=False),
        sa.Column("found", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("asked_at", UtcTime(), nullable=False),
        sa.Column("deadline_at", UtcTime(), nullable=False),
        sa.Column("finished_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("fetch_id", name="pk_fetches"),
    )
    op.create_index("ix_fetches_study_instance_uid", "fetches", ["study_instance_uid"])
    op.create_index("ix_fetches_request_id", "fetches", ["request_id"])
    op.create_index("ix_fetches_state", "fetches", ["state"])
    op.create_table(
        "storage_commitments",
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("calling_ae_title", sa.String(64), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("references", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("requested_at", UtcTime(), nullable=False),
        sa.Column("next_attempt_at", UtcTime(), nullable=True),
        sa.Column("reported_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint(
            "transaction_uid", "calling_ae_title", name="pk_storage_commitments"
        ),
    )
    op.create_index("ix_storage_commitments_state", "storage_commitments", ["state"])
    op.create_table(
        "procedure_steps",
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("performed_series", sa.JSON(), nullable=False),
        sa.Column("changed_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid", name="pk_procedure_steps"),
    )
    op.create_index(
        "ix_procedure_steps_study_instance_uid", "procedure_steps", ["study_instance_uid"]
    )
    op.create_table(
        "claims",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("holder", sa.String(160), nullable=False),
        sa.Column("until", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_claims"),
    )
    op.add_column("documents", sa.Column("purged_at", UtcTime(), nullable=True))
    op.drop_column("association_studies", "segment")
    op.add_column(
        "association_studies",
        sa.Column("duplicates", sa.Integer(), nullable=False, server_default="0"),
    )
    op.add_column("studies", sa.Column("legal_hold", sa.Text(), nullable=True))
    op.add_column("studies", sa.Column("purged_at", UtcTime(), nullable=True))
    op.add_column(
        "study_revisions",
        sa.Column("scope", sa.String(16), nullable=False, server_default="study"),
    )
    op.add_column("study_revisions", sa.Column("complete_series", sa.JSON(), nullable=True))
    op.add_column("study_revisions", sa.Column("asked_archive_at", UtcTime(), nullable=True))
    op.add_column(
        "requests", sa.Column("input_sha256", sa.String(64), nullable=False, server_default="")
    )
    op.add_column("requests", sa.Column("priors", sa.JSON(), nullable=True))


def _must_be_empty() -> None:
    """Images of the version before lie in a format that nothing reads any more."""
    if op.get_bind().execute(sa.text("SELECT 1 FROM instances LIMIT 1")).first() is not None:
        raise IntegrityError(
            "this data folder was filled by a version before the first release, whose images "
            "this one cannot read: start with an empty data folder and an empty database"
        )


def downgrade() -> None:
    raise RuntimeError("the segments of this version cannot be read by an older one")
