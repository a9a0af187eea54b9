"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "bakes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("arch", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started", sa.Text(), nullable=False),
        sa.Column("finished", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("image", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("log_path", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bakes")),
    )
    op.create_index(op.f("ix_bakes_outcome"), "bakes", ["outcome"], unique=False)
    op.create_table(
        "layers",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_layers")),
        sa.UniqueConstraint("digest", name=op.f("uq_layers_digest")),
    )
    op.create_table(
        "ledger",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("bake", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("intended_at", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_ledger")),
        sa.UniqueConstraint(
            "bake", "provider", "kind", "id", "place", name=op.f("uq_ledger_bake_provider_kind_id_place")
        ),
    )
    op.create_index(op.f("ix_ledger_state"), "ledger", ["state"], unique=False)
    op.create_table(
        "packages",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("arch", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_packages")),
        sa.UniqueConstraint("key", name=op.f("uq_packages_key")),
    )
    op.create_index(op.f("ix_packages_name_version"), "packages", ["name", "version"], unique=False)
    op.create_index(op.f("ix_packages_source"), "packages", ["source"], unique=False)
    op.create_table(
        "recipes",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("last_version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_recipes")),
    )
    op.create_table(
        "bake_stages",
        sa.Column("bake", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("started", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["bake"], ["bakes.id"], name=op.f("fk_bake_stages_bake")),
        sa.PrimaryKeyConstraint("bake", "stage", name=op.f("pk_bake_stages")),
    )
    op.create_table(
        "builds",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("arch", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_digest", sa.Text(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("commit", sa.Text(), nullable=True),
        sa.Column("dirty", sa.Boolean(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("started", sa.Text(), nullable=False),
        sa.Column("finished", sa.Text(), nullable=False),
        sa.Column("tools", sa.JSON(), nullable=False),
        sa.Column("opaque", sa.Text(), nullable=True),
        sa.Column("parent_build", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["recipe"], ["recipes.name"], name=op.f("fk_builds_recipe")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_builds")),
        sa.UniqueConstraint("id", name=op.f("uq_builds_id")),
    )
    op.create_index(op.f("ix_builds_digest"), "builds", ["digest"], unique=False)
    op.create_index(op.f("ix_builds_parent_build"), "builds", ["parent_build"], unique=False)
    op.create_index(
        op.f("ix_builds_recipe_target_arch"), "builds", ["recipe", "target", "arch"], unique=False
    )
    op.create_table(
        "channel_moves",
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("from_version", sa.Integer(), nullable=True),
        sa.Column("to_version", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["recipe"], ["recipes.name"], name=op.f("fk_channel_moves_recipe")),
        sa.PrimaryKeyConstraint("recipe", "channel", "revision", name=op.f("pk_channel_moves")),
    )
    op.create_table(
        "channels",
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["recipe"], ["recipes.name"], name=op.f("fk_channels_recipe")),
        sa.PrimaryKeyConstraint("recipe", "name", name=op.f("pk_channels")),
    )
    op.create_table(
        "images",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=True),
        sa.Column("status_actor", sa.Text(), nullable=False),
        sa.Column("status_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["recipe"], ["recipes.name"], name=op.f("fk_images_recipe")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_images")),
        sa.UniqueConstraint("recipe", "version", name=op.f("uq_images_recipe_version")),
    )
    op.create_table(
        "artifacts",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("build", sa.Integer(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("arch", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["build"], ["builds.number"], name=op.f("fk_artifacts_build")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_artifacts")),
        sa.UniqueConstraint("build", "store", "id", name=op.f("uq_artifacts_build_store_id")),
    )
    op.create_index(op.f("ix_artifacts_id"), "artifacts", ["id"], unique=False)
    op.create_table(
        "build_layers",
        sa.Column("build", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("layer", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["build"], ["builds.number"], name=op.f("fk_build_layers_build")),
        sa.ForeignKeyConstraint(["layer"], ["layers.number"], name=op.f("fk_build_layers_layer")),
        sa.PrimaryKeyConstraint("build", "position", name=op.f("pk_build_layers")),
    )
    op.create_index(op.f("ix_build_layers_layer"), "build_layers", ["layer"], unique=False)
    op.create_table(
        "build_packages",
        sa.Column("build", sa.Integer(), nullable=False),
        sa.Column("package", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["build"], ["builds.number"], name=op.f("fk_build_packages_build")),
        sa.ForeignKeyConstraint(["package"], ["packages.number"], name=op.f("fk_build_packages_package")),
        sa.PrimaryKeyConstraint("build", "package", name=op.f("pk_build_packages")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_build_packages_package_build"), "build_packages", ["package", "build"], unique=False
    )
    op.create_table(
        "image_builds",
        sa.Column("image", sa.Integer(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("arch", sa.Text(), nullable=False),
        sa.Column("build", sa.Integer(), nullable=False),
        sa.Column("available", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["build"], ["builds.number"], name=op.f("fk_image_builds_build")),
        sa.ForeignKeyConstraint(["image"], ["images.number"], name=op.f("fk_image_builds_image")),
        sa.PrimaryKeyConstraint("image", "target", "arch", name=op.f("pk_image_builds")),
    )
    op.create_index(op.f("ix_image_builds_build"), "image_builds", ["build"], unique=False)
