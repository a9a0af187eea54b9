"""The tables. A change here needs a migration under ``migrations/versions`` and the new ``REVISION``.

Rows refer to one another by small numbers; what people see (a version, a build's id, a digest) is unique
beside them. Times are text, so that both databases keep and compare them alike.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from baker.catalog.columns import Moment, Prose, link_table
from baker.catalog.columns import metadata as metadata

REVISION = "0005"
"""The schema that this code knows: the newest of the migrations, whose names sort in their order."""

REVISION_TABLE = "catalog_revision"

# --- images -------------------------------------------------------------------------------------

recipes = Table(
    "recipes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("last_version", Integer, nullable=False),
)

images = Table(
    "images",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("recipe", ForeignKey("recipes.name"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("created", Moment, nullable=False),
    Column("status", Text, nullable=False),
    Column("status_reason", Prose),
    Column("status_actor", Text, nullable=False),
    Column("status_at", Moment, nullable=False),
    # A deprecated image is still available until then; null: deprecated at once.
    Column("deprecated_from", Moment),
    # The preview channel that it was baked for: it is nobody else's ``latest``. Null: it is no preview.
    Column("preview", Text),
    UniqueConstraint("recipe", "version"),
)

image_labels = Table(
    "image_labels",
    metadata,
    Column("image", ForeignKey("images.number"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Prose, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Index(None, "key", "value"),
)

# Append-only: what happened to an image, by whom and why.
image_events = Table(
    "image_events",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("image", ForeignKey("images.number"), nullable=False, index=True),
    Column("event", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Column("reason", Prose),
)

# Somebody's claim on an image; while it holds, the image is never pruned. Kept when it has ended.
leases = Table(
    "leases",
    metadata,
    Column("id", Text, primary_key=True),
    Column("image", ForeignKey("images.number"), nullable=False, index=True),
    Column("owner", Text, nullable=False, index=True),
    Column("actor", Text, nullable=False),
    Column("reason", Prose),
    Column("created", Moment, nullable=False),
    Column("expires", Moment),
    Column("released", Moment),
)

builds = Table(
    "builds",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("recipe", ForeignKey("recipes.name"), nullable=False),
    Column("target", Text, nullable=False),
    Column("arch", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created", Moment, nullable=False),
    # Where it came from; see model.Provenance.
    Column("source", Text, nullable=False),
    Column("source_digest", Text, nullable=False),
    Column("inputs", JSON, nullable=False),
    Column("commit", Text),
    Column("dirty", Boolean),
    Column("actor", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("started", Moment, nullable=False),
    Column("finished", Moment, nullable=False),
    Column("tools", JSON, nullable=False),
    Column("opaque", Text),
    # Not a foreign key: a rebuilt catalog may know a build and not its parent.
    Column("parent_build", Text, index=True),
    # Those that it passed last; null where an older schema did not say.
    Column("image_tests", JSON(none_as_null=True)),
    Index(None, "recipe", "target", "arch"),
    Index(None, "digest"),
)

image_builds = Table(
    "image_builds",
    metadata,
    Column("image", ForeignKey("images.number"), nullable=False),
    Column("target", Text, nullable=False),
    Column("arch", Text, nullable=False),
    Column("build", ForeignKey("builds.number"), nullable=False, index=True),
    # Whether the build is distributed: a build that joins an available version is not there yet.
    Column("available", Boolean, nullable=False),
    PrimaryKeyConstraint("image", "target", "arch"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("build", ForeignKey("builds.number"), nullable=False),
    Column("id", Text, nullable=False, index=True),
    Column("target", Text, nullable=False),
    Column("arch", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("store", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("details", JSON, nullable=False),
    UniqueConstraint("build", "store", "id"),
)

# What apt in the image knows, so that package updates are found without a machine; see baker.package_state.
package_states = Table(
    "package_states",
    metadata,
    Column("build", ForeignKey("builds.number"), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

# --- what is inside ---------------------------------------------------------------------------------

packages = Table(
    "packages",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("key", Text, nullable=False, unique=True),  # see writing.package_key
    Column("type", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("arch", Text, nullable=False),
    Column("source", Text, nullable=False, index=True),
    Column("source_version", Text, nullable=False),
    Index(None, "name", "version"),
)

build_packages = link_table(
    "build_packages",
    Column("build", ForeignKey("builds.number"), primary_key=True),
    Column("package", ForeignKey("packages.number"), primary_key=True),
    index=("package", "build"),
)

layers = Table(
    "layers",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("content", LargeBinary, nullable=False),  # see baker.layer
)

# Which layers a build consists of, lowest first. The same delta may lie upon different ones below it.
build_layers = Table(
    "build_layers",
    metadata,
    Column("build", ForeignKey("builds.number"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("layer", ForeignKey("layers.number"), nullable=False, index=True),
)

# --- channels -----------------------------------------------------------------------------------

channels = Table(
    "channels",
    metadata,
    Column("recipe", ForeignKey("recipes.name"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    # A preview channel is collected after this; null: it stays.
    Column("expires", Moment),
)

channel_moves = Table(
    "channel_moves",
    metadata,
    Column("recipe", ForeignKey("recipes.name"), primary_key=True),
    Column("channel", Text, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("from_version", Integer),
    Column("to_version", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Prose),
    Column("at", Moment, nullable=False),
    # What the channel's gate still missed when it was moved all the same; null if nothing.
    Column("overridden", JSON(none_as_null=True)),
    # Whether it was a roll-back; null (an older schema did not say) is a promotion.
    Column("rolled_back", Boolean),
    # Whether the channel ended here, holding ``to_version``: it had expired. Null: it did not.
    Column("expired", Boolean),
)

# What a channel's gate asks, kept where the pipeline that it restrains cannot edit it. An empty recipe
# means every recipe's channel of that name.
channel_protections = Table(
    "channel_protections",
    metadata,
    Column("recipe", Text, primary_key=True),
    Column("channel", Text, primary_key=True),
    Column("rules", JSON, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", Moment, nullable=False),
)

# --- bakes --------------------------------------------------------------------------------------

bakes = Table(
    "bakes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("recipe", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("arch", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", Moment, nullable=False),
    Column("finished", Moment),
    Column("outcome", Text, index=True),
    Column("image", Text),
    Column("error", Prose),
    Column("log_path", Text, nullable=False),
    # Ids of the builds that it works from, which are not pruned while it runs; null: none, or not yet.
    Column("uses", JSON(none_as_null=True)),
)

bake_stages = Table(
    "bake_stages",
    metadata,
    Column("bake", ForeignKey("bakes.id"), primary_key=True),
    Column("stage", Text, primary_key=True),
    Column("started", Moment, nullable=False),
    Column("seconds", Float),
    Column("outcome", Text, nullable=False),
)

# The end of a finished bake's log, compressed, for those who cannot read its file. In a table of its own, so
# that listing bakes does not read it.
bake_logs = Table(
    "bake_logs",
    metadata,
    Column("bake", ForeignKey("bakes.id"), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

# No foreign key to bakes: what a throwaway machine holds is written down here too.
ledger = Table(
    "ledger",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("bake", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("details", JSON, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("intended_at", Moment, nullable=False),
    Column("changed_at", Moment, nullable=False),
    UniqueConstraint("bake", "provider", "kind", "id", "place"),
)

# --- runs -----------------------------------------------------------------------------------------

# One command that bakes: `bake` or `nightly`. What was asked for and what it came to, so that an interrupted
# one can be continued, and a nightly tells what changed since the last one.
runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False, index=True),
    Column("project", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", Moment, nullable=False),
    Column("finished", Moment),
    Column("outcome", Text),
    # What the command was asked for, and per recipe, target and architecture how it ended so far.
    Column("options", JSON, nullable=False),
    Column("results", JSON, nullable=False),
    Column("report", JSON(none_as_null=True)),
)

# Who may do what only one may do at once. A holder that does not renew before ``deadline`` has lost it.
locks = Table(
    "locks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("actor", Text, nullable=False),
    # Host and BAKER_HOME of the holder: see identity.store_name.
    Column("store", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("since", Moment, nullable=False),
    Column("deadline", Moment, nullable=False),
)

# --- environments -----------------------------------------------------------------------------------

# Its row is what every change of an environment locks first: one after the other, whatever the host.
environments = Table(
    "environments",
    metadata,
    Column("name", Text, primary_key=True),
    Column("target", Text, nullable=False),
    Column("store", Text, nullable=False),
    Column("created", Moment, nullable=False),
    Column("removed", Moment),
)

# See deploy.release.Release. All times are the database's. Kept when they have ended.
releases = Table(
    "releases",
    metadata,
    Column("id", Text, primary_key=True),
    Column("environment", ForeignKey("environments.name"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("image", ForeignKey("images.number"), nullable=False),
    # Not a foreign key: a build goes with its image, the release stays in the history.
    Column("build", Text, nullable=False),
    Column("lease", ForeignKey("leases.id"), nullable=False),
    Column("state", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("actor", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("deployer", Text, nullable=False),
    Column("started", Moment, nullable=False),
    Column("live_since", Moment),
    Column("warm_until", Moment),
    Column("ended", Moment),
    Column("reason", Prose),
    Column("failed", Boolean, nullable=False),
    Column("abort", Prose),
    Column("born", JSON, nullable=False),
    Column("audit", JSON(none_as_null=True)),
    UniqueConstraint("environment", "number"),
)

# Append-only. ``image`` is a reference, ``release`` a number of the environment's.
environment_events = Table(
    "environment_events",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("environment", ForeignKey("environments.name"), nullable=False, index=True),
    Column("event", Text, nullable=False),
    Column("release", Integer),
    Column("image", Text),
    Column("actor", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Column("reason", Prose),
    Column("details", JSON, nullable=False),
)
