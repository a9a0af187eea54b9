"""Migrations of the catalog's schema, run by Alembic without a configuration file.

A released one never changes. A new one is ``versions/vNNNN_what.py`` with the next number, and sets
``baker.catalog.schema.REVISION``; a test compares what they make with the tables in ``schema.py``.
"""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from baker.catalog.schema import REVISION

_alembic_is_global = threading.Lock()


def configure_alembic(connection: Connection | None = None) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def upgrade(connection: Connection) -> None:
    """Bring the schema to ``REVISION`` within the transaction of ``connection``."""
    with _alembic_is_global:
        command.upgrade(configure_alembic(connection), REVISION)
