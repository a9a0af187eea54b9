"""Which image tests a build passed last: when they change, it is verified again."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("builds", sa.Column("image_tests", sa.JSON(), nullable=True))
