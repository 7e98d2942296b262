"""An instance knows the revision that it came with, and is current once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # What came before this column is in the first revision: nothing tells which one it came with.
    op.add_column(
        "instances", sa.Column("revision", sa.Integer(), nullable=False, server_default="1")
    )
    is_current = sa.text("state = 'current'")
    op.create_index(
        "ux_instances_current",
        "instances",
        ["sop_instance_uid"],
        unique=True,
        sqlite_where=is_current,
        postgresql_where=is_current,
    )


def downgrade() -> None:
    raise RuntimeError("nothing is taken back: restore a backup instead")
