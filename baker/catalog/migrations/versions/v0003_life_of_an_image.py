"""Labels, events, leases, deprecation at a date; what protects a channel."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("images", sa.Column("deprecated_from", sa.Text(), nullable=True))
    op.add_column("channel_moves", sa.Column("overridden", sa.JSON(), nullable=True))
    op.add_column("channel_moves", sa.Column("rolled_back", sa.Boolean(), nullable=True))
    op.add_column("bakes", sa.Column("uses", sa.JSON(), nullable=True))
    op.create_table(
        "image_labels",
        sa.Column("image", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["image"], ["images.number"], name=op.f("fk_image_labels_image")),
        sa.PrimaryKeyConstraint("image", "key", name=op.f("pk_image_labels")),
    )
    op.create_index(op.f("ix_image_labels_key_value"), "image_labels", ["key", "value"], unique=False)
    op.create_table(
        "image_events",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("image", sa.Integer(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["image"], ["images.number"], name=op.f("fk_image_events_image")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_image_events")),
    )
    op.create_index(op.f("ix_image_events_image"), "image_events", ["image"], unique=False)
    op.create_table(
        "leases",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("image", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("expires", sa.Text(), nullable=True),
        sa.Column("released", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["image"], ["images.number"], name=op.f("fk_leases_image")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
    )
    op.create_index(op.f("ix_leases_image"), "leases", ["image"], unique=False)
    op.create_index(op.f("ix_leases_owner"), "leases", ["owner"], unique=False)
    op.create_table(
        "channel_protections",
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("rules", sa.JSON(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("recipe", "channel", name=op.f("pk_channel_protections")),
    )
    op.create_table(
        "bake_logs",
        sa.Column("bake", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["bake"], ["bakes.id"], name=op.f("fk_bake_logs_bake")),
        sa.PrimaryKeyConstraint("bake", name=op.f("pk_bake_logs")),
    )
