"""Imported by the process that others are forked from: what a bake for aws needs, to start at once."""

from __future__ import annotations

import boto3  # noqa: F401
import paramiko  # noqa: F401
import sqlalchemy  # noqa: F401

import baker.catalog.migrations
import baker.execution
import baker.providers.aws.provider  # noqa: F401
from baker import cli

cli.make_app()
