"""What Alembic runs for every command: migrate over the connection that it was given."""

from alembic import context

from baker.catalog.schema import REVISION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=REVISION_TABLE,
)
context.run_migrations()
